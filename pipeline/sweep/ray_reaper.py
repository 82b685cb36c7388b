"""Reaper of local Ray processes that outlive their driver: Ray's agents otherwise run for a minute after a kill.

It runs as a separate process, `python ray_reaper.py DRIVER`, where DRIVER is the process id of the driver, and detects
the end of the driver by EOF on its standard input. It imports nothing from this package, so that it starts fast. It
works on Linux only; elsewhere it finds no process.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

POLL_S = 1.0
GRACE_S = 2.0
"""Seconds in which Ray's processes may exit by themselves before they are killed."""


class RayProcess(NamedTuple):
    """Process, identified by its id and its start time, because ids are reused."""

    pid: int
    started: str


def main(driver: int) -> None:
    """Track the driver's Ray processes until the driver ends; then kill the ones that are left."""
    known: set[RayProcess] = set()
    while not select.select([sys.stdin], [], [], POLL_S)[0]:
        known |= set(_ray_processes(driver))
    deadline = time.monotonic() + GRACE_S
    while (left := {process for process in known if _is_alive(process)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _ray_processes(driver: int) -> Iterator[RayProcess]:
    """Yield the descendants of the driver that belong to Ray."""
    children: dict[int, list[int]] = {}
    for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        if stat := _stat(pid):
            children.setdefault(int(stat[1]), []).append(pid)
    pending = [driver]
    while pending:
        for pid in children.get(pending.pop(), []):
            pending.append(pid)
            if (stat := _stat(pid)) and _is_of_ray(pid):
                yield RayProcess(pid, stat[19])


def _is_of_ray(pid: int) -> bool:
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return command.startswith(b"ray::") or b"/ray/" in command
    return False


def _is_alive(process: RayProcess) -> bool:
    stat = _stat(process.pid)
    return stat is not None and stat[19] == process.started and stat[0] != "Z"


def _stat(pid: int) -> list[str] | None:
    """Return state, parent id and further fields of a process; None if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
