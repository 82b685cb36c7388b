"""Set-up of a local Ray before it is imported: token authentication and the folder for its sockets and logs."""

import os
import re
import secrets
import shutil
from pathlib import Path

from pipeline.catalog.scratch import is_process_alive
from pipeline.errors import UsageError

MAX_FOLDER_BYTES = 107 - len("/session_2026-11-30_18-00-00_123456_4194304/sockets/plasma_store")
"""Largest length of the folder's path in bytes: the path of a socket below the folder may have at most 107 bytes."""
SESSION_PATTERN = re.compile(r"session_.+_(?P<driver>\d+)")


def enable_local_ray_auth() -> None:
    """Protect a local Ray with a random token in this process's environment, which Ray's processes inherit.

    No file is written, and an authentication mode that the user has set is kept. Ray reads the environment once, at
    import: call this before importing Ray.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def prepare_ray_tmpdir() -> Path:
    """Return this user's folder below $RAY_TMPDIR or /tmp, after removing the sessions of dead drivers.

    The logs of the last run stay until the next run starts. $TMPDIR is not used, because it is often long.

    Raises:
        UsageError: the path is too long for Ray's sockets.
    """
    base = Path(os.environ.get("RAY_TMPDIR", "/tmp")).absolute()
    folder = base / f"shapelake-{os.getuid()}"
    if (room := MAX_FOLDER_BYTES - len(os.fsencode(folder.name)) - 1) < (size := len(os.fsencode(base))):
        found = f"{size} bytes long; Ray's sockets below it allow at most {room}"
        raise UsageError(f"RAY_TMPDIR={base}", found, "Set RAY_TMPDIR to a shorter path on a local disk, such as /tmp")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for session in folder.iterdir():
        name = SESSION_PATTERN.fullmatch(session.name)
        if name and not session.is_symlink() and not is_process_alive(int(name["driver"])):
            shutil.rmtree(session, ignore_errors=True)
    return folder
