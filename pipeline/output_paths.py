"""Where results go: refused before any work where they could not be written. No missing parent is made."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UsageError


def require_writable_file(asked: str, path: str | Path, suffixes: Sequence[str]) -> Path:
    """The path of a file to write, of one of these kinds, such as `.svg`; `asked` says what it will be.

    Raises:
        UsageError: another kind of file, a folder, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        raise UsageError(f"{asked} {path}", f"not a {', '.join(suffixes)} file", "Name it by what it shall be")
    if path.is_dir():
        raise UsageError(f"{asked} {path}", "a folder is there", "Name another file")
    return _beside(asked, path)


def require_writable_folder(asked: str, path: str | Path) -> Path:
    """The path of a folder to fill; it need not be there, but what it lies in must.

    Raises:
        UsageError: a file is there, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{asked} {path}", "it is no folder", "Name another one")
    return _beside(asked, path)


def _beside(asked: str, path: Path) -> Path:
    """`path`, which can be written: itself where it is there, else in the folder that it lies in."""
    if not path.parent.is_dir():
        raise UsageError(f"{asked} {path}", f"there is no folder {path.parent}", "Make it, or name another place")
    held = path if path.exists() else path.parent
    if not os.access(held, os.W_OK):
        raise UsageError(f"{asked} {path}", f"{held} cannot be written by you", "Name another place")
    return path
