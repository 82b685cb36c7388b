"""Set-up of a local Ray before it is imported: token authentication and the folder for its sockets and logs."""

import os
import re
import secrets
import shutil
from pathlib import Path

from pipeline.catalog.scratch import is_process_alive

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

    The logs of the last run stay until the next run starts. $TMPDIR is not used: a socket path has at most 107 bytes.
    """
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp"), f"shapelake-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for session in folder.iterdir():
        name = SESSION_PATTERN.fullmatch(session.name)
        if name and not session.is_symlink() and not is_process_alive(int(name["driver"])):
            shutil.rmtree(session, ignore_errors=True)
    return folder
