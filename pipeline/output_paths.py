"""Checks of output paths, made before any work starts. Missing parent folders are not created."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UsageError

OWNER_FILE = ".shapelake-export"
"""Name of a file that marks a folder as made by an export; its text says what was exported there."""


def require_writable_file(asked: str, path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return `path` if a file with one of these suffixes, such as `.svg`, can be written there.

    `asked` names the output in error messages.

    Raises:
        UsageError: the suffix is not in `suffixes`, the path is a folder, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        found = f"unsupported extension {path.suffix!r}" if path.suffix else "no file extension"
        raise UsageError(f"{asked} {path}", found, f"Use the extension {' or '.join(suffixes)}")
    if path.is_dir():
        raise UsageError(f"{asked} {path}", "it is a folder", "Choose a file name that is not taken by a folder")
    return _require_writable(asked, path)


def require_writable_folder(asked: str, path: str | Path) -> Path:
    """Return `path` if it is a writable folder or can be created in a folder that exists.

    Raises:
        UsageError: the path is a file, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{asked} {path}", "it is a file", "Choose a folder, or a name that is not taken")
    return _require_writable(asked, path)


def require_own_folder(asked: str, path: str | Path, owner: str) -> Path:
    """Return the folder `path`, created if it is missing, after writing `owner` into its file `OWNER_FILE`.

    A folder that has files, but not from an earlier export for the same owner, is refused, so that these files are not
    overwritten, removed or published.

    Args:
        owner: what is exported, such as `dataset OWNER/NAME`.

    Raises:
        UsageError: the folder has other files or another owner, or it cannot be written.
    """
    path = require_writable_folder(asked, path)
    marker = path / OWNER_FILE
    found = marker.read_text().strip() if marker.is_file() else None
    if found is None and path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{asked} {path}", "the folder holds other files", "Choose a new or empty folder")
    if found not in (None, owner):
        raise UsageError(f"{asked} {path}", f"the folder belongs to {found}", "Choose another folder")
    path.mkdir(exist_ok=True)
    marker.write_text(f"{owner}\n")
    return path


def _require_writable(asked: str, path: Path) -> Path:
    if not path.parent.is_dir():
        raise UsageError(f"{asked} {path}", f"there is no folder {path.parent}", f"Create {path.parent} first")
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise UsageError(f"{asked} {path}", f"no permission to write {target}", "Choose a path that you can write to")
    return path
