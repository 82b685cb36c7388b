"""A checkpoint of the fake Hub that is to be fetched, and what a fetch leaves on this machine."""

import hashlib
from pathlib import Path

from pipeline.catalog import scratch
from pipeline.spec import Checkpoint, HubFile, RemoteFiles
from tests.hub.fake import FakeHub

REPO = "org/model"
RUN = "2026-01-01T00-00-00Z-abcd"
FILES = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": bytes(range(256)) * 4096}
SIZE = sum(map(len, FILES.values()))
WEIGHTS = "*/model.safetensors"


def checkpoint(hub: FakeHub, branch: str = "step1", files: dict[str, bytes] = FILES, subfolder: str = "") -> Checkpoint:
    """A checkpoint of the fake Hub, with files beside it that nobody wants."""
    inside = {f"{subfolder}/{name}" if subfolder else name: data for name, data in files.items()}
    sha = hub.repo(REPO).commit({**inside, "optimizer.bin": b"o" * 5000, "README.md": branch.encode()}, branch)
    listed = tuple(HubFile(path=n, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in files.items())
    remote = RemoteFiles(repo=REPO, commit=sha, files=listed, subfolder=subfolder)
    return Checkpoint(
        **dict(model=REPO, revision=branch, path="", tokenizer_path="", remote=remote, kinds=("decoder",)),
        **dict(weights_digest="w", config_digest="c", tokenizer_digest="t"),
    )


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder that are no book-keeping."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".")}


def left() -> list[str]:
    """What there is in the scratch, but for the lock that lasts."""
    return [path.name for path in scratch.scratch_root().iterdir() if path.name != ".leases.lock"]


def sent(hub: FakeHub, pattern: str) -> int:
    return sum(request.sent for request in hub.asked(pattern, "GET"))
