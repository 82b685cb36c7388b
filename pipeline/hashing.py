"""Digests of files: what makes two checkpoints, tokenizers or corpora the same."""

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
"""A file younger than this may still change without its clock showing it, so its digest is not remembered."""


def file_sha256(path: Path, progress: Progress | None = None) -> str:
    """sha256 of a file's bytes in hex, remembered by (path, device, inode, size, mtime, ctime).

    Args:
        progress: of many files, to which this one's bytes are added; null = one of its own.

    Raises:
        OSError: the file is absent or cannot be read.
    """
    size = path.stat().st_size
    with nullcontext(progress) if progress else Progress(f"Hashing {path.name}", size) as shown:
        end = shown.done + size
        sha = cached_sha256(path, "file", lambda path: _sha256(path, shown))
        shown.advance(end - shown.done)  # of a remembered file nothing was read
    return sha


def digest_file_hashes(shas: Iterable[tuple[str, str]]) -> str:
    """sha256 over the sorted (file name, sha256) pairs, written as JSON `[["a","9f.."],["b","03.."]]`, no spaces.

    Names alone enter, never folders, so that a Hub listing and a local copy give the same digest.
    """
    return hashlib.sha256(canonical_json(sorted(shas)).encode()).hexdigest()


def digest_of_files(folder: Path, names: Iterable[str], progress: Progress | None = None) -> str:
    """`digest_of` the files `names` in `folder`."""
    return digest_file_hashes((name, file_sha256(folder / name, progress)) for name in names)


def cached_sha256(path: Path, what: str, compute: Callable[[Path], str]) -> str:
    """The sha256 that `compute(path)` gives, or gave when the file was last seen unchanged.

    Args:
        what: names the computation, so that two digests of one file are kept apart.
    """
    note = cache.folder("sha256") / digest_json([what, *_identity(path)])
    if (known := _read(note)) is not None:
        return known
    found = compute(path)
    # The identity is taken again: a file that changed while it was read must not be remembered as either.
    settled = time.time_ns() - os.stat(path).st_mtime_ns > MIN_AGE_NS
    if settled and note.name == digest_json([what, *_identity(path)]):
        cache.write_atomic(note, found.encode())
    return found


def _identity(path: Path) -> list[str | int]:
    stat = os.stat(path)
    return [os.path.realpath(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read(note: Path) -> str | None:
    try:
        text = note.read_text("ascii")
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
