"""Where the Ray of a local run keeps its sockets and logs. No import of Ray here: it is asked for before Ray starts."""

import os
import re
import shutil
from pathlib import Path

from pipeline.catalog.scratch import is_process_alive

SESSION_PATTERN = re.compile(r"session_.+_(?P<driver>\d+)")


def prepare_ray_tmpdir() -> Path:
    """A folder of this user below $RAY_TMPDIR or /tmp, in which no driver that is dead has left a session.

    The last run's logs stay until the next one starts. Not below $TMPDIR: a socket's path has at most 107 bytes.
    """
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp"), f"shapelake-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for session in folder.iterdir():
        name = SESSION_PATTERN.fullmatch(session.name)
        if name and not session.is_symlink() and not is_process_alive(int(name["driver"])):
            shutil.rmtree(session, ignore_errors=True)
    return folder
