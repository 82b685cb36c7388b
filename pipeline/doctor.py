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

State = Literal["fine", "note", "broken"]
FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
DIM, POINTS, LOW, HIGH = 5, 2000, 4.2, 5.2
"""TwoNN of a uniform cube of 5 dimensions in 20 at this N: 4.71 with its faces, sd 0.14 over 20 draws."""
LITTLE_DISK = 20e9
TOKENLESS = "not set: fewer requests, nothing gated"


class Check(NamedTuple):
    """One thing looked at."""

    name: str
    state: State
    found: str
    do: str = ""


def checks(lake: str | None = None) -> Iterator[Check]:
    """Every check in turn; one that fails with an error of ours is a broken one.

    Args:
        lake: a place for a lake, which is tried by writing one small file and removing it.
    """
    asked: list[tuple[str, Callable[[], Check]]] = [
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
            yield Check(name, "broken", f"{error.asked}: {error.found}", error.do)


def _torch() -> Check:
    import torch

    built = torch.version.cuda
    if torch.cuda.is_available():
        return Check("torch", "fine", f"{torch.__version__}, {torch.cuda.get_device_name()}")
    if built:
        return Check("torch", "broken", f"built for CUDA {built}, but sees no device", "Check the driver")
    return Check("torch", "note", f"{torch.__version__}, no GPU: large models take long")


def _faiss() -> Check:
    installed = [name for name in FAISS if _version(name)]
    if len(installed) > 1:
        found = f"{' and '.join(installed)} overwrite each other's module"
        return Check("faiss", "broken", found, "Uninstall both, then install one")
    if not installed:
        return Check("faiss", "note", "not installed: the same neighbours come from torch, more slowly")
    return _faiss_device(installed[0])


def _faiss_device(name: str) -> Check:
    import torch

    said = f"{name} {_version(name)}"
    try:
        import faiss
    except (ImportError, RuntimeError) as error:  # the latter where a library of CUDA is absent
        return Check("faiss", "broken", f"{said} cannot be loaded: {error}", f"Install {name} again with what it needs")
    gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    if torch.cuda.is_available() and not gpus:
        return Check("faiss", "note", f"{said} sees no GPU: neighbours are searched by torch there")
    built, other = _cuda_of(name), (torch.version.cuda or "").partition(".")[0]
    if gpus and built != other:
        return Check("faiss", "note", f"{said} is built for CUDA {built}, torch for {other}: both are loaded")
    return Check("faiss", "fine", f"{said}, {gpus} GPUs")


def _cuda_of(name: str) -> str | None:
    """The CUDA that a package was built for, by the runtime that it asks for: its major version."""
    asked = " ".join(requires(name) or ())
    found = re.search(r"nvidia-cuda-runtime(?:-cu(\d+)|\S*>=(\d+))", asked)
    return found and (found[1] or found[2])


def _twonn() -> Check:
    import torch

    from pipeline.geometry import describe

    generator = torch.Generator().manual_seed(0)
    cube = torch.rand(POINTS, DIM, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(20, DIM, generator=generator, dtype=torch.float64))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = describe((cube @ basis.T).to(device, torch.float32))["id_twonn"]
    read = f"{found:.2f}" if isinstance(found, float) else f"{found}"
    said = f"a cube of {DIM} dimensions in 20 reads {read} on the {device}"
    if isinstance(found, float) and LOW < found < HIGH:
        return Check("TwoNN", "fine", said)
    return Check("TwoNN", "broken", said, "Report it with the versions above")


def _ray() -> Check:
    mode = os.environ.get("RAY_AUTH_MODE")
    said = f"ray {_version('ray')}, RAY_AUTH_MODE {mode or 'not set'}"
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if mode == "token" and not (os.environ.get("RAY_AUTH_TOKEN") or file.is_file()):
        return Check("ray", "broken", f"{said}, and no token in RAY_AUTH_TOKEN or {file}", "Set the cluster's token")
    if mode == "token":
        return Check("ray", "fine", said)
    if mode:
        return Check("ray", "note", f"{said}: who reaches a Ray here runs code on it", "Unset it, or set it to token")
    if file.is_file():
        found = f"{said}, but {file} is there: a head started here asks for it, a driver with an address sends none"
        return Check("ray", "note", found, "Set RAY_AUTH_MODE=token")
    return Check("ray", "note", f"{said}: a local run locks its own", "On a cluster set RAY_AUTH_MODE=token everywhere")


def _disk() -> Check:
    root = scratch.scratch_root()
    free = shutil.disk_usage(root).free
    said = f"{free / 1e9:,.0f} GB free in {root}"
    if free < LITTLE_DISK:
        return Check("scratch", "note", said, "Set SHAPELAKE_SCRATCH to a larger disk, or resources.scratch_gb")
    return Check("scratch", "fine", said)


def _hub() -> Check:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    token = "set" if os.environ.get("HF_TOKEN") else f"in {file}" if file.is_file() else TOKENLESS
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    where = os.environ.get("HF_ENDPOINT", "the public one")
    state: State = "note" if offline else "fine"
    return Check("hub", state, f"endpoint {where}, token {token}{', HF_HUB_OFFLINE is set' if offline else ''}")


def _lake(uri: str) -> Check:
    findings = check_store(open_store(uri))
    if findings:
        return Check("lake", "note", " ".join(findings))
    return Check("lake", "fine", f"{uri} creates, lists and keeps what it is given")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
