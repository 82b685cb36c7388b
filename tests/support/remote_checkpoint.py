"""Checkpoint on the fake Hub for download tests, and inspection of the files that a download leaves."""

import hashlib
from pathlib import Path

from pipeline.catalog import scratch
from pipeline.spec import Checkpoint, HubFile, RemoteFiles
from tests.support.fake_hub import FakeHub

REPO = "org/model"
RUN = "2026-01-01T00-00-00Z-abcd"
FILES = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": bytes(range(256)) * 4096}
SIZE = sum(map(len, FILES.values()))
WEIGHTS = "*/model.safetensors"


def checkpoint(hub: FakeHub, branch: str = "step1", files: dict[str, bytes] = FILES, subfolder: str = "") -> Checkpoint:
    """Publish a checkpoint with additional files that must not be downloaded."""
    inside = {f"{subfolder}/{name}" if subfolder else name: data for name, data in files.items()}
    sha = hub.repo(REPO).commit({**inside, "optimizer.bin": b"o" * 5000, "README.md": branch.encode()}, branch)
    listed = tuple(HubFile(path=n, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in files.items())
    remote = RemoteFiles(repo=REPO, commit=sha, files=listed, subfolder=subfolder)
    return Checkpoint(
        **dict(model=REPO, revision=branch, path="", tokenizer_path="", remote=remote, kinds=("decoder",)),
        **dict(weights_digest="w", config_digest="c", tokenizer_digest="t"),
    )


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder, without the download's own bookkeeping files."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}


def leftovers() -> list[str]:
    """Return the names in the scratch folder, without the permanent lock file."""
    return [path.name for path in scratch.scratch_root().iterdir() if path.name != ".leases.lock"]


def bytes_sent(hub: FakeHub, pattern: str) -> int:
    return sum(request.sent for request in hub.asked(pattern, "GET"))
