"""What will not work on this machine, tried or looked at: packages, devices, numbers, disk, the Hub, a lake."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.catalog import scratch
from pipeline.errors import ShapelakeError
from pipeline.lake.open_store import open_store
from pipeline.lake.store_check import check_store

CheckStatus = Literal["fine", "note", "broken"]
FAISS_PACKAGES = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
CUBE_DIM, CUBE_POINTS, TWONN_MIN, TWONN_MAX = 5, 2000, 4.2, 5.2
"""TwoNN of a uniform cube of 5 dimensions in 20 at this N: 4.71 with its faces, sd 0.14 over 20 draws."""
LOW_DISK_BYTES = 20e9
NO_TOKEN_MESSAGE = "not set: fewer requests, nothing gated"


class CheckResult(NamedTuple):
    """One thing looked at."""

    name: str
    state: CheckStatus
    found: str
    do: str = ""


def run_checks(lake: str | None = None) -> Iterator[CheckResult]:
    """Every check in turn; one that fails with an error of ours is a broken one.

    Args:
        lake: a place for a lake, which is tried by writing one small file and removing it.
    """
    asked: list[tuple[str, Callable[[], CheckResult]]] = [
        ("torch", _torch),
        ("faiss", _faiss),
        ("TwoNN", _twonn),
        ("ray", _ray),
        ("scratch", _disk),
        ("hub", _hub),
    ]
    asked += [("lake", lambda: _lake(lake))] if lake else []
    for name, ask in asked:
        try:
            yield ask()
        except ShapelakeError as error:
            yield CheckResult(name, "broken", f"{error.asked}: {error.found}", error.do)


def _torch() -> CheckResult:
    import torch

    built = torch.version.cuda
    if torch.cuda.is_available():
        return CheckResult("torch", "fine", f"{torch.__version__}, {torch.cuda.get_device_name()}")
    if built:
        return CheckResult("torch", "broken", f"built for CUDA {built}, but sees no device", "Check the driver")
    return CheckResult("torch", "note", f"{torch.__version__}, no GPU: large models take long")


def _faiss() -> CheckResult:
    installed = [name for name in FAISS_PACKAGES if _version(name)]
    if len(installed) > 1:
        found = f"{' and '.join(installed)} overwrite each other's module"
        return CheckResult("faiss", "broken", found, "Uninstall both, then install one")
    if not installed:
        return CheckResult("faiss", "note", "not installed: the same neighbours come from torch, more slowly")
    return _faiss_device(installed[0])


def _faiss_device(name: str) -> CheckResult:
    import torch

    said = f"{name} {_version(name)}"
    try:
        import faiss
    except (ImportError, RuntimeError) as error:  # the latter where a library of CUDA is absent
        return CheckResult(
            "faiss", "broken", f"{said} cannot be loaded: {error}", f"Install {name} again with what it needs"
        )
    gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    if torch.cuda.is_available() and not gpus:
        return CheckResult("faiss", "note", f"{said} sees no GPU: neighbours are searched by torch there")
    built, other = _cuda_of(name), (torch.version.cuda or "").partition(".")[0]
    if gpus and built != other:
        return CheckResult("faiss", "note", f"{said} is built for CUDA {built}, torch for {other}: both are loaded")
    return CheckResult("faiss", "fine", f"{said}, {gpus} GPUs")


def _cuda_of(name: str) -> str | None:
    """The CUDA that a package was built for, by the runtime that it asks for: its major version."""
    asked = " ".join(requires(name) or ())
    found = re.search(r"nvidia-cuda-runtime(?:-cu(\d+)|\S*>=(\d+))", asked)
    return found and (found[1] or found[2])


def _twonn() -> CheckResult:
    import torch

    from pipeline.geometry import describe

    generator = torch.Generator().manual_seed(0)
    cube = torch.rand(CUBE_POINTS, CUBE_DIM, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(20, CUBE_DIM, generator=generator, dtype=torch.float64))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = describe((cube @ basis.T).to(device, torch.float32))["id_twonn"]
    read = f"{found:.2f}" if isinstance(found, float) else f"{found}"
    said = f"a cube of {CUBE_DIM} dimensions in 20 reads {read} on the {device}"
    if isinstance(found, float) and TWONN_MIN < found < TWONN_MAX:
        return CheckResult("TwoNN", "fine", said)
    return CheckResult("TwoNN", "broken", said, "Report it with the versions above")


def _ray() -> CheckResult:
    mode = os.environ.get("RAY_AUTH_MODE")
    said = f"ray {_version('ray')}, RAY_AUTH_MODE {mode or 'not set'}"
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if mode == "token" and not (os.environ.get("RAY_AUTH_TOKEN") or file.is_file()):
        return CheckResult(
            "ray", "broken", f"{said}, and no token in RAY_AUTH_TOKEN or {file}", "Set the cluster's token"
        )
    if mode == "token":
        return CheckResult("ray", "fine", said)
    if mode:
        return CheckResult(
            "ray", "note", f"{said}: who reaches a Ray here runs code on it", "Unset it, or set it to token"
        )
    if file.is_file():
        found = f"{said}, but {file} is there: a head started here asks for it, a driver with an address sends none"
        return CheckResult("ray", "note", found, "Set RAY_AUTH_MODE=token")
    return CheckResult(
        "ray", "note", f"{said}: a local run locks its own", "On a cluster set RAY_AUTH_MODE=token everywhere"
    )


def _disk() -> CheckResult:
    root = scratch.scratch_root()
    free = shutil.disk_usage(root).free
    said = f"{free / 1e9:,.0f} GB free in {root}"
    if free < LOW_DISK_BYTES:
        return CheckResult("scratch", "note", said, "Set SHAPELAKE_SCRATCH to a larger disk, or resources.scratch_gb")
    return CheckResult("scratch", "fine", said)


def _hub() -> CheckResult:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    token = "set" if os.environ.get("HF_TOKEN") else f"in {file}" if file.is_file() else NO_TOKEN_MESSAGE
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    where = os.environ.get("HF_ENDPOINT", "the public one")
    state: CheckStatus = "note" if offline else "fine"
    return CheckResult("hub", state, f"endpoint {where}, token {token}{', HF_HUB_OFFLINE is set' if offline else ''}")


def _lake(uri: str) -> CheckResult:
    findings = check_store(open_store(uri))
    if findings:
        return CheckResult("lake", "note", " ".join(findings))
    return CheckResult("lake", "fine", f"{uri} creates, lists and keeps what it is given")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
