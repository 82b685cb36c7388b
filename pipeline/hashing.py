"""SHA-256 checksums of files, cached by file identity; they decide whether two checkpoints or corpora are the same."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

from pipeline import cache
from pipeline.progress import Progress
from pipeline.strict_model import canonical_json, digest_json

BLOCK = 1 << 20

MIN_AGE_NS = 2_000_000_000
"""Minimum age of a cacheable file: a younger file can change again without a visible change of its mtime."""


def file_sha256(path: Path, progress: Progress | None = None) -> str:
    """Return the sha256 of a file's bytes in hex, cached by (path, device, inode, size, mtime, ctime).

    Args:
        progress: shared progress bar that this file's bytes advance; None = a bar for this file alone.

    Raises:
        OSError: the file is absent or cannot be read.
    """
    size = path.stat().st_size
    with nullcontext(progress) if progress else Progress(f"Hashing {path.name}", size) as bar:
        end = bar.done + size
        sha = cached_sha256(path, "file", lambda path: _sha256(path, bar))
        bar.advance(end - bar.done)  # a cache hit reads no bytes
    return sha


def digest_file_hashes(shas: Iterable[tuple[str, str]]) -> str:
    """Return the sha256 of the sorted (file name, sha256) pairs as compact JSON: `[["a","9f.."],["b","03.."]]`.

    Folder names do not enter, so a Hub listing and a local copy give the same digest.
    """
    return hashlib.sha256(canonical_json(sorted(shas)).encode()).hexdigest()


def cached_sha256(path: Path, kind: str, compute: Callable[[Path], str]) -> str:
    """Return `compute(path)`, from the cache if the file has not changed since.

    Args:
        kind: name of the computation; different digests of one file have separate cache entries.
    """
    entry = cache.folder("sha256") / digest_json([kind, *file_identity(path)])
    if (cached := _read(entry)) is not None:
        return cached
    digest = compute(path)
    # The identity is taken again: a file that changed while it was read must not be cached under either state.
    settled = time.time_ns() - os.stat(path).st_mtime_ns > MIN_AGE_NS
    if settled and entry.name == digest_json([kind, *file_identity(path)]):
        cache.write_atomic(entry, digest.encode())
    return digest


def file_identity(path: Path) -> list[str | int]:
    """Return path, device, inode, size, mtime and ctime: equal as long as the bytes are, unless a clock is set back."""
    stat = os.stat(path)
    return [os.path.realpath(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read(entry: Path) -> str | None:
    try:
        text = entry.read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _sha256(path: Path, progress: Progress) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
            progress.advance(len(block))
    return state.hexdigest()
