"""The user's cache folder: things that can always be made again. Correctness never depends on it."""

import os
from pathlib import Path
from uuid import uuid4


def folder(name: str) -> Path:
    """The cache's sub-folder `name`, made if needed; the root is $SHAPELAKE_CACHE or ~/.cache/shapelake."""
    base = os.environ.get("SHAPELAKE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "shapelake")
    path = Path(base).expanduser() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
