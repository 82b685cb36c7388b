"""Download of a checkpoint by commit into the node's scratch: only its files, each checked, removed afterwards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

from pipeline.catalog import scratch as node
from pipeline.catalog.hub_http import call_with_retries
from pipeline.errors import CheckpointError, FetchError, FilesChangedError
from pipeline.hashing import file_sha256
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, HubFile, RemoteFiles
from pipeline.strict_model import digest_json

__all__ = ["discard_checkpoint", "fetch_checkpoint", "fetch_temporarily", "remove_stale", "scratch_folder"]

COMPLETE_MARKER = ".complete"
remove_stale = node.remove_stale


def scratch_folder(checkpoint: Checkpoint, run_id: str) -> Path:
    """The checkpoint's folder on this node, whether it is there or not."""
    return (
        node.scratch_root() / f"{run_id}-{digest_json([remote.model_dump() for _, remote in _parts(checkpoint)])[:16]}"
    )


def fetch_checkpoint(checkpoint: Checkpoint, run_id: str, budget_bytes: int | None = None) -> Path:
    """Download a Hub checkpoint into its scratch folder, once its bytes fit; at once where it is there already.

    The folder outlives this process and goes with `discard`, or with `sweep` once the driver is dead. Nothing is left
    of a fetch that failed.

    Args:
        budget_bytes: that all checkpoints of this node may take together; null = as much as the disk has.

    Raises:
        FetchError: a stall, a busy Hub, a broken connection: it may work the next time.
        CheckpointError: a file that is not the one the Hub lists, twice.
        ChangedError: a file or the commit is gone from the Hub.
        UsageError: no permission, offline, or more bytes than the budget or the disk has.
    """
    folder = scratch_folder(checkpoint, run_id)
    with node.lock_folder(folder):
        _fill_folder(checkpoint, folder, budget_bytes)
    return folder


@contextmanager
def fetch_temporarily(checkpoint: Checkpoint, run_id: str, budget_bytes: int | None = None) -> Iterator[Checkpoint]:
    """The checkpoint with its files in local folders, which go with the block; one without a remote is given as it is.

    Raises: as `fetch`.
    """
    if not (parts := _parts(checkpoint)):
        yield checkpoint
        return
    folder = scratch_folder(checkpoint, run_id)
    with node.lock_folder(folder):
        try:
            _fill_folder(checkpoint, folder, budget_bytes)
            places = {field: str(folder / field / remote.subfolder) for field, remote in parts}
            if checkpoint.remote and not checkpoint.tokenizer_remote and not checkpoint.tokenizer_path:
                places["tokenizer_path"] = places["path"]
            yield checkpoint.model_copy(update=places)
        finally:
            node.release_folder(folder)


def discard_checkpoint(checkpoint: Checkpoint, run_id: str) -> None:
    """Remove the checkpoint's scratch folder, if it is there; one still being filled is left to the next sweep."""
    with node.lock_folder(folder := scratch_folder(checkpoint, run_id), wait=False) as is_ours:
        if is_ours:
            node.release_folder(folder)


def _parts(checkpoint: Checkpoint) -> list[tuple[str, RemoteFiles]]:
    """(field of the checkpoint, remote that it comes from)."""
    parts = [("path", checkpoint.remote), ("tokenizer_path", checkpoint.tokenizer_remote)]
    return [(field, remote) for field, remote in parts if remote]


def _fill_folder(checkpoint: Checkpoint, folder: Path, budget_bytes: int | None) -> None:
    parts = _parts(checkpoint)
    if (folder / COMPLETE_MARKER).exists():
        return
    remove_stale()  # on every node, not on the driver's alone
    try:
        size = sum(remote.total_bytes for _, remote in parts)
        node.reserve(folder, size, budget_bytes)
        with Progress(f"Downloading {checkpoint.label}", size) as progress:
            for field, remote in parts:
                for file in remote.files:
                    _fetch_file(remote, file, folder / field, progress)
        (folder / COMPLETE_MARKER).touch()
    except BaseException:
        node.release_folder(folder)
        raise


def _fetch_file(remote: RemoteFiles, file: HubFile, folder: Path, progress: Progress) -> None:
    """The file as it is listed: from the user's HF cache, else downloaded, twice if need be."""
    path, start = folder / _name(remote, file), progress.done
    for bring in (_link, _download, _download):
        if not bring(remote, file, folder, progress):
            continue
        progress.advance(start + file.size - progress.done)  # what was linked, or was there before
        if file_sha256(path) == file.sha256:
            return
        path.unlink()
        progress.advance(start - progress.done)
    raise CheckpointError(
        _asked(remote, file),
        "a flipped bit or a damaged upload: twice its sha256 was not the one that the Hub lists",
        "Leave this checkpoint out, and tell the owner of the repository",
    )


def _link(remote: RemoteFiles, file: HubFile, folder: Path, _: Progress) -> bool:
    """Link the file from the user's HF cache, where that has it at this commit."""
    known = try_to_load_from_cache(remote.repo, _name(remote, file), revision=remote.commit)
    if not isinstance(known, str):
        return False
    path = folder / _name(remote, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # what a fetch that was killed left
    path.symlink_to(os.path.realpath(known))
    return True


def _download(remote: RemoteFiles, file: HubFile, folder: Path, progress: Progress) -> bool:
    asked, start = _asked(remote, file), progress.done

    def once() -> None:
        progress.advance(start - progress.done)
        try:
            hf_hub_download(
                remote.repo,
                _name(remote, file),
                revision=remote.commit,
                local_dir=folder,
                cache_dir=folder / ".cache" / "none",  # else a damaged copy in the user's cache would be taken again
                tqdm_class=cast(Any, partial(_Counter, progress)),
            )
        except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
            raise FilesChangedError(asked, "it is no longer on the Hub", "Plan again") from error

    try:
        call_with_retries(asked, once)
    except OSError as error:  # of the disk; or without a number, the library's word for a wrong size
        found = error.strerror or "its size is not the one listed"
        raise FetchError(asked, found, f"Try again, with room in {folder.parent.parent}") from error
    return True


class _Counter:
    """Takes the place of the library's progress bar: its bytes are added to ours."""

    def __init__(self, progress: Progress, **_: object) -> None:
        self.update = progress.advance

    def __enter__(self) -> "_Counter":
        return self

    def __exit__(self, *_: object) -> None: ...


def _asked(remote: RemoteFiles, file: HubFile) -> str:
    return f"{_name(remote, file)} of {remote.repo} at {remote.commit}"


def _name(remote: RemoteFiles, file: HubFile) -> str:
    """The file's path in its repository."""
    return f"{remote.subfolder}/{file.path}" if remote.subfolder else file.path
