"""Download of a Hub checkpoint into the node's scratch. Its files are verified, and removed after use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

from pipeline.catalog import scratch
from pipeline.catalog.hub_http import call_with_retries
from pipeline.errors import CheckpointError, FetchError, FilesChangedError
from pipeline.hashing import file_sha256
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, HubFile, RemoteFiles
from pipeline.strict_model import digest_json

__all__ = ["discard_checkpoint", "fetch_checkpoint", "fetch_temporarily", "scratch_folder"]

COMPLETE_MARKER = ".complete"


def scratch_folder(checkpoint: Checkpoint, run_id: str) -> Path:
    """Return the path of the checkpoint's folder in the scratch of this node; the folder may not exist."""
    remotes = [remote.model_dump() for _, remote in _parts(checkpoint)]
    return scratch.scratch_root() / f"{run_id}-{digest_json(remotes)[:16]}"


def fetch_checkpoint(checkpoint: Checkpoint, run_id: str, budget_bytes: int | None = None) -> Path:
    """Download a Hub checkpoint into its scratch folder once there is enough space, and return the folder.

    If all files are there already, nothing is downloaded. The folder outlives this process. It is removed by
    `discard_checkpoint`, or by `remove_stale` once the driver is dead. A failed download leaves no files.

    Args:
        budget_bytes: disk budget for all checkpoints on this node together; None = limited only by the disk.

    Raises:
        FetchError: a stall, a busy Hub or a broken connection; a later attempt can succeed.
        CheckpointError: a file differs from the Hub's listing after two downloads.
        FilesChangedError: a file or the commit no longer exists on the Hub.
        UsageError: access is denied, HF_HUB_OFFLINE is set, or the checkpoint exceeds the budget or the disk.
    """
    folder = scratch_folder(checkpoint, run_id)
    with scratch.lock_folder(folder):
        _fill_folder(checkpoint, folder, budget_bytes)
    return folder


@contextmanager
def fetch_temporarily(checkpoint: Checkpoint, run_id: str, budget_bytes: int | None = None) -> Iterator[Checkpoint]:
    """Yield the checkpoint with local paths, and remove its files on exit; a local checkpoint is yielded unchanged.

    Raises: the errors of `fetch_checkpoint`.
    """
    if not (parts := _parts(checkpoint)):
        yield checkpoint
        return
    folder = scratch_folder(checkpoint, run_id)
    with scratch.lock_folder(folder):
        try:
            _fill_folder(checkpoint, folder, budget_bytes)
            paths = {field: str(folder / field / remote.subfolder) for field, remote in parts}
            if not checkpoint.tokenizer_remote and not checkpoint.tokenizer_path:  # fetched with the weights
                paths["tokenizer_path"] = paths["path" if checkpoint.remote else "base_path"]
            yield checkpoint.model_copy(update=paths)
        finally:
            scratch.release_folder(folder)


def discard_checkpoint(checkpoint: Checkpoint, run_id: str) -> None:
    """Remove the checkpoint's scratch folder, if any; a folder that another process locks is left to `remove_stale`."""
    scratch.release_if_unlocked(scratch_folder(checkpoint, run_id))


def _parts(checkpoint: Checkpoint) -> list[tuple[str, RemoteFiles]]:
    """Return pairs (path field of the checkpoint, remote files to download for this field)."""
    fields = {"path": "remote", "tokenizer_path": "tokenizer_remote", "base_path": "base_remote"}
    return [(field, remote) for field, name in fields.items() if (remote := getattr(checkpoint, name))]


def _fill_folder(checkpoint: Checkpoint, folder: Path, budget_bytes: int | None) -> None:
    parts = _parts(checkpoint)
    if (folder / COMPLETE_MARKER).exists():
        return
    scratch.remove_stale()  # runs on every node, not only on the driver's
    try:
        size = sum(remote.total_bytes for _, remote in parts)
        scratch.reserve(folder, size, budget_bytes)
        with Progress(f"Downloading {checkpoint.label}", size) as progress:
            for field, remote in parts:
                for file in remote.files:
                    _fetch_file(remote, file, folder / field, progress)
        (folder / COMPLETE_MARKER).touch()
    except BaseException:
        scratch.release_folder(folder)
        raise


def _fetch_file(remote: RemoteFiles, file: HubFile, folder: Path, progress: Progress) -> None:
    """Fetch a file and verify its sha256: link it from the user's HF cache, else download it, at most twice."""
    path, start = folder / _name(remote, file), progress.done
    for fetch in (_link, _download, _download):
        if not fetch(remote, file, folder, progress):
            continue
        progress.advance(start + file.size - progress.done)  # bytes that were linked or present already
        if file_sha256(path) == file.sha256:
            return
        path.unlink()
        progress.advance(start - progress.done)
    found = "both downloads lack the sha256 that the Hub lists, because of a flipped bit or a damaged upload"
    do = "Exclude this checkpoint from the sweep, and report the file to the owner of the repository"
    raise CheckpointError(_describe(remote, file), found, do)


def _link(remote: RemoteFiles, file: HubFile, folder: Path, _: Progress) -> bool:
    """Link the file from the user's HF cache; returns False if the cache lacks it at this commit."""
    cached = try_to_load_from_cache(remote.repo, _name(remote, file), revision=remote.commit)
    if not isinstance(cached, str):
        return False
    path = folder / _name(remote, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left over from a killed process
    path.symlink_to(os.path.realpath(cached))
    return True


def _download(remote: RemoteFiles, file: HubFile, folder: Path, progress: Progress) -> bool:
    asked, start = _describe(remote, file), progress.done
    name, bar = _name(remote, file), cast(Any, partial(_Counter, progress))
    own = folder / ".cache" / "none"  # own cache folder, so that a damaged copy in the user's cache is not reused

    def once() -> None:
        progress.advance(start - progress.done)
        try:
            hf_hub_download(remote.repo, name, revision=remote.commit, local_dir=folder, cache_dir=own, tqdm_class=bar)
        except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
            do = "Run the sweep again to plan with the current commits"
            raise FilesChangedError(asked, "it is no longer on the Hub", do) from error

    try:
        call_with_retries(asked, once)
    except OSError as error:  # a disk error or, if errno is None, the library's error for a wrong size
        found = error.strerror or "the downloaded size differs from the size that the Hub lists"
        do = f"Give {folder.parent.parent} write permission and {file.size:,} bytes of free space"
        raise FetchError(asked, found, do if error.errno else "Run again to repeat the download") from error
    return True


class _Counter:
    """Replacement for the library's progress bar; forwards byte counts to our `Progress`."""

    def __init__(self, progress: Progress, **_: object) -> None:
        self.update = progress.advance

    def __enter__(self) -> "_Counter":
        return self

    def __exit__(self, *_: object) -> None: ...


def _describe(remote: RemoteFiles, file: HubFile) -> str:
    return f"{_name(remote, file)} of {remote.repo} at {remote.commit}"


def _name(remote: RemoteFiles, file: HubFile) -> str:
    """Return the file's path in its repository."""
    return f"{remote.subfolder}/{file.path}" if remote.subfolder else file.path
