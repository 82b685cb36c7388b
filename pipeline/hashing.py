"""SHA-256 checksums of files, cached by file identity; they decide whether two checkpoints or corpora are the same."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from stat import S_ISLNK

from pipeline import cache
from pipeline.progress import Progress
from pipeline.strict_model import canonical_json, digest_json

BLOCK = 1 << 20
AnyPath = Path | str | os.DirEntry[str]
CACHE = "checksums"
SIZE = 3
"""Index of the size in a file identity."""

MIN_AGE_NS = 2_000_000_000
"""Age in ns up to which no digest of a file is cached, because the file can change again within one tick of its
mtime."""


def file_sha256(path: AnyPath, progress: Progress | None = None) -> str:
    """Return the sha256 of a file's bytes in hex, cached by (path, device, inode, size, mtime, ctime).

    Args:
        progress: shared progress bar that this file's bytes advance; None = a bar for this file alone.

    Raises:
        OSError: the file is absent or cannot be read.
    """
    if progress is None:
        return cached_sha256(path, "file", _sha256_with_bar)
    return cached_sha256(path, "file", lambda path: _sha256(path, progress), progress.advance)


def batch_checksums(folder: Path) -> AbstractContextManager[None]:
    """Return a context that makes cached checksums of many files under `folder` fast to read and write.

    See `cache.Table.batch`.
    """
    return cache.table(CACHE).batch(f"file:{_real_folder(str(folder.absolute()))}/")


def digest_file_hashes(shas: Iterable[tuple[str, str]]) -> str:
    """Return the sha256 of the sorted (file name, sha256) pairs as compact JSON: `[["a","9f.."],["b","03.."]]`.

    Folder names do not enter, so a Hub listing and a local copy give the same digest.
    """
    return _digest_pairs(tuple(sorted(shas)))


def cached_sha256(
    path: AnyPath, kind: str, compute: Callable[[Path], str], skip: Callable[[int], object] | None = None
) -> str:
    """Return `compute(path)`, or the result in the cache if the file has not changed since it was computed.

    Args:
        kind: name of the computation; different digests of one file have separate cache entries.
        skip: called with the file's size if the checksum is cached.
    """
    before, table = file_identity(path), cache.table(CACHE)
    name, version = f"{kind}:{before[0]}", ",".join(map(str, before[1:]))
    if (cached := table.get(name, version)) is not None:
        if skip:
            skip(int(before[SIZE]))
        return cached
    path = Path(path)  # a directory entry keeps the state that it had when it was listed
    digest = compute(path)
    # The identity is taken again: a file that changed while it was read must not be cached under either state.
    settled = time.time_ns() - os.stat(path).st_mtime_ns > MIN_AGE_NS
    if settled and file_identity(path) == before:
        table.put(name, version, digest)
    return digest


def cached_sha256_of_files(paths: Sequence[Path], kind: str, compute: Callable[[], str]) -> str:
    """Return `compute()`, a digest of all files together.

    If no file has changed since the digest was cached, it is taken from the cache. See `cached_sha256`.
    """
    if len(paths) == 1:
        return cached_sha256(paths[0], kind, lambda _: compute())
    before, table = list(map(file_identity, paths)), cache.table(CACHE)
    name, version = f"{kind}:{digest_json([identity[0] for identity in before])}", digest_json(before)
    if (cached := table.get(name, version)) is not None:
        return cached
    digest = compute()
    settled = time.time_ns() - max(os.stat(path).st_mtime_ns for path in paths) > MIN_AGE_NS
    if settled and list(map(file_identity, paths)) == before:
        table.put(name, version, digest)
    return digest


def file_identity(path: AnyPath) -> list[str | int]:
    """Return [path, device, inode, size, mtime, ctime] of a file.

    If the bytes of the file change, at least one of these changes too, unless a clock is set back.
    """
    folder, _, name = os.fspath(path).rpartition("/")
    stat = path.stat(follow_symlinks=False) if isinstance(path, os.DirEntry) else os.lstat(path)
    if S_ISLNK(stat.st_mode) or not folder.startswith("/"):
        real, stat = os.path.realpath(path), os.stat(path)
    else:
        real = f"{_real_folder(folder)}/{name}"
    return [real, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


@lru_cache(maxsize=1 << 16)
def _real_folder(folder: str) -> str:
    """Return the real path of an absolute folder, "" for the root; cached, because it dominates the time of a lookup.

    If a link to the folder changes, the cached path may be the old target; the inode still tells the files apart.
    """
    parent, _, name = folder.rpartition("/")
    if not parent or name in ("", ".", "..") or os.path.islink(folder):
        return os.path.realpath(folder).rstrip("/")
    return f"{_real_folder(parent)}/{name}"


@lru_cache(maxsize=1024)
def _digest_pairs(pairs: tuple[tuple[str, str], ...]) -> str:
    # Cached because the checkpoints of a history have the same tokenizer files and few different configs.
    return hashlib.sha256(canonical_json(pairs).encode()).hexdigest()


def _sha256_with_bar(path: Path) -> str:
    with Progress(f"Hashing {path.name}", path.stat().st_size) as bar:
        return _sha256(path, bar)


def _sha256(path: Path, progress: Progress) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
            progress.advance(len(block))
    return state.hexdigest()
