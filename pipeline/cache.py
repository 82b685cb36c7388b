"""User cache folder for files that can be recomputed. Correctness never depends on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pipeline.errors import UsageError


def folder(name: str) -> Path:
    """Return the cache's subfolder `name`, created if needed; the root is $SHAPELAKE_CACHE or ~/.cache/shapelake.

    Raises:
        UsageError: the folder cannot be created.
    """
    base = os.environ.get("SHAPELAKE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "shapelake")
    path = Path(base).expanduser() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cache folder {path}", error.strerror or str(error), "Set SHAPELAKE_CACHE to a writable folder"
        ) from error
    return path


def write_atomic(path: Path, data: bytes) -> None:
    """Write `path` atomically: a reader sees all of `data` or the previous file."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextmanager
def hold_file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` between processes; the kernel releases it if the process dies."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        # On a file system without locks two processes may do the same work; the result is still correct.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
