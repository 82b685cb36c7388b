"""Checks of this machine: packages, devices, an estimate with a known result, Ray, disk, the Hub and, if given, a
lake."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.catalog import scratch
from pipeline.errors import ShapelakeError
from pipeline.lake import Lake
from pipeline.lake.local_store import LocalStore
from pipeline.lake.open_store import open_store
from pipeline.lake.store import STAGING, check_store

CheckStatus = Literal["fine", "note", "broken"]
FAISS_PACKAGES = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
CUBE_DIM, CUBE_POINTS, TWONN_MIN, TWONN_MAX = 5, 2000, 4.2, 5.2
"""Test of TwoNN: CUBE_POINTS points are drawn uniformly from a cube of CUBE_DIM dimensions in a space of 20, and the
estimate must lie between TWONN_MIN and TWONN_MAX. Over 20 draws, the estimate has mean 4.71 (it is biased by the faces
of the cube) and standard deviation 0.14."""
LOW_DISK_BYTES = 20e9


class CheckResult(NamedTuple):
    """Result of one check."""

    name: str
    state: CheckStatus
    found: str
    do: str = ""


def run_checks(lake: str | None = None) -> Iterator[CheckResult]:
    """Run the checks one after the other; a check that raises ShapelakeError is reported as broken.

    Args:
        lake: URI of a lake to check as well; the check writes one small file there and leaves nothing.
    """
    checks: list[tuple[str, Callable[[], CheckResult]]] = [
        ("torch", _torch),
        ("faiss", _faiss),
        ("TwoNN", _twonn),
        ("ray", _ray),
        ("scratch", _disk),
        ("hub", _hub),
    ]
    checks += [("lake", lambda: _lake(lake))] if lake else []
    for name, check in checks:
        try:
            yield check()
        except ShapelakeError as error:
            yield CheckResult(name, "broken", f"{error.asked}: {error.found}", error.do)


def _torch() -> CheckResult:
    import torch

    built = torch.version.cuda
    if torch.cuda.is_available():
        return CheckResult("torch", "fine", f"{torch.__version__}, {torch.cuda.get_device_name()}")
    if built:
        return CheckResult("torch", "broken", f"built for CUDA {built}, but finds no device", "Check the NVIDIA driver")
    return CheckResult("torch", "note", f"{torch.__version__}, no GPU: large models are slow")


def _faiss() -> CheckResult:
    installed = [name for name in FAISS_PACKAGES if _version(name)]
    if len(installed) > 1:
        found = f"{' and '.join(installed)} overwrite each other: both install the module faiss"
        do = f"Run pip uninstall {' '.join(installed)}, then install one of them"
        return CheckResult("faiss", "broken", found, do)
    if not installed:
        return CheckResult("faiss", "note", "not installed: torch finds the same neighbours, but more slowly")
    return _faiss_device(installed[0])


def _faiss_device(name: str) -> CheckResult:
    import torch

    package = f"{name} {_version(name)}"
    try:
        import faiss
    except (ImportError, RuntimeError) as error:  # RuntimeError if a CUDA library is missing
        do = f"Reinstall {name} and its dependencies"
        return CheckResult("faiss", "broken", f"{package} cannot be loaded: {error}", do)
    gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    if torch.cuda.is_available() and not gpus:
        return CheckResult("faiss", "note", f"{package} finds no GPU: torch finds the neighbours on the GPU instead")
    built, other = _cuda_of(name), (torch.version.cuda or "").partition(".")[0]
    if gpus and built != other:
        found = f"{package} is built for CUDA {built or '(unknown)'}, but torch for {other}: both versions are loaded"
        return CheckResult("faiss", "note", found)
    return CheckResult("faiss", "fine", f"{package}, {gpus} GPUs")


def _cuda_of(name: str) -> str | None:
    """Return the major version of the CUDA runtime that the package requires; None if it requires no such runtime."""
    found = re.search(r"nvidia-cuda-runtime(?:-cu(\d+)|\S*>=(\d+))", " ".join(requires(name) or ()))
    return found and (found[1] or found[2])


def _twonn() -> CheckResult:
    import torch

    from pipeline.geometry import describe

    generator = torch.Generator().manual_seed(0)
    cube = torch.rand(CUBE_POINTS, CUBE_DIM, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(20, CUBE_DIM, generator=generator, dtype=torch.float64))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    estimate = describe((cube @ basis.T).to(device, torch.float32))["id_twonn"]
    shown = f"{estimate:.2f}" if isinstance(estimate, float) else f"{estimate}"
    found = f"estimate {shown} for a {CUBE_DIM}-dimensional cube in 20 dimensions, on the {device}"
    if isinstance(estimate, float) and TWONN_MIN < estimate < TWONN_MAX:
        return CheckResult("TwoNN", "fine", found)
    return CheckResult("TwoNN", "broken", found, "Report a bug with the versions above")


def _ray() -> CheckResult:
    mode = os.environ.get("RAY_AUTH_MODE")
    setting = f"ray {_version('ray')}, RAY_AUTH_MODE {mode or 'not set'}"
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if mode == "token" and not (os.environ.get("RAY_AUTH_TOKEN") or file.is_file()):
        found = f"{setting}, but there is no token in RAY_AUTH_TOKEN or {file}"
        return CheckResult("ray", "broken", found, "Set RAY_AUTH_TOKEN to the cluster's token")
    if mode == "token":
        return CheckResult("ray", "fine", setting)
    if mode:
        found = f"{setting}: anyone who can connect to a Ray head on this machine can run code here"
        return CheckResult("ray", "note", found, "Set RAY_AUTH_MODE=token, or unset it")
    if file.is_file():
        found = (
            f"{setting}, but {file} exists: a Ray head that is started here requires this token, but a driver with an"
            " address does not send it"
        )
        return CheckResult("ray", "note", found, "Set RAY_AUTH_MODE=token")
    found = f"{setting}: a local run generates its own token"
    return CheckResult("ray", "note", found, "On a cluster set RAY_AUTH_MODE=token on every node")


def _disk() -> CheckResult:
    root = scratch.scratch_root()
    free = shutil.disk_usage(root).free
    found = f"{free / 1e9:,.0f} GB free in {root}"
    if free < LOW_DISK_BYTES:
        do = "Set SHAPELAKE_SCRATCH to a folder on a larger disk, or set resources.scratch_gb"
        return CheckResult("scratch", "note", found, do)
    return CheckResult("scratch", "fine", found)


def _hub() -> CheckResult:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    missing = "not set: rate limits are lower, and gated repos cannot be read"
    token = "set" if os.environ.get("HF_TOKEN") else f"in {file}" if file.is_file() else missing
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    found = f"endpoint {os.environ.get('HF_ENDPOINT', 'the public one')}, token {token}"
    if offline:
        return CheckResult("hub", "note", f"{found}, HF_HUB_OFFLINE is set")
    return CheckResult("hub", "fine", found)


def _lake(uri: str) -> CheckResult:
    absent = Lake(uri).why_absent()
    with _new_folders_removed(uri):
        findings = check_store(open_store(uri))
    if findings:
        return CheckResult("lake", "note", " ".join(findings))
    works = "atomic create, read, replace and list work"
    if absent:
        found, do = f"{uri}: no lake yet ({absent}), but {works}", "Check the name, or run a sweep"
        return CheckResult("lake", "note", found, do)
    return CheckResult("lake", "fine", f"{uri}: {works}")


@contextmanager
def _new_folders_removed(uri: str) -> Iterator[None]:
    """Remove the folders that the check creates, unless another process has written into them meanwhile."""
    store = open_store(uri)
    staging = store.path(STAGING) if isinstance(store, LocalStore) else None
    folders = [staging, *staging.parents] if staging else []
    created = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        for folder in created:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
