"""The user's cache folder: things that can always be made again. Correctness never depends on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pipeline.errors import UsageError


def folder(name: str) -> Path:
    """The cache's sub-folder `name`, made if needed; the root is $SHAPELAKE_CACHE or ~/.cache/shapelake.

    Raises:
        UsageError: it cannot be made.
    """
    base = os.environ.get("SHAPELAKE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "shapelake")
    path = Path(base).expanduser() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cache folder {path}", error.strerror or str(error), "Set SHAPELAKE_CACHE to a folder that can be written"
        ) from error
    return path


def write_atomic(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextmanager
def hold_file_lock(path: Path) -> Iterator[None]:
    """One process at a time makes `path`; the lock beside it goes with the process that holds it."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        # A file system without locks costs only that the same thing is made twice.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
