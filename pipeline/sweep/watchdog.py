"""Ends a process that has been at one thing for too long, from within, and leaves its stack.

Its file is there while a try of a task is under way, on the node that runs it, and as old as what the task is at: so
the driver can tell one that is stuck, though the watchdog has not ended it, from one that waits for its turn.
"""

import faulthandler
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import cache
from pipeline.sweep.task import Task


@contextmanager
def mark_in_flight(task: Task) -> Iterator[None]:
    """Keeps the file; where the process is killed or ends itself, it stays."""
    path = stack_file(task)
    path.touch()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def exit_on_timeout(task: Task) -> Iterator[None]:
    """A timer outside the interpreter: it fires even where a task hangs in C code. Within `under_way`."""
    with stack_file(task).open("w") as file:
        os.utime(file.fileno())  # where opening an empty file anew leaves its time
        faulthandler.dump_traceback_later(task.resources.timeout_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def stack_file(task: Task) -> Path:
    """Of this try."""
    return cache.folder("stacks") / f"{task.run_id}-{task.checkpoint.content}-{task.attempt}.txt"


def read_stack(task: Task) -> str:
    """What has been left on this node; empty where it did not end the task here."""
    path = stack_file(task)
    return path.read_text() if path.exists() else ""


def innermost_line(stack: str) -> str:
    """The innermost line of the main thread, which is listed last, as FILE:LINE; empty if there is none."""
    main = stack.rpartition("(most recent call first):")[2]
    found = re.search(r'File "(?:.*/)?(.+?)", line (\d+)', main)
    return f"{found[1]}:{found[2]}" if found else ""


def find_stuck(tasks: Iterable[Task], limit_s: float) -> list[str]:
    """Contents of those which have been at one thing on this node for so long."""
    return [task.checkpoint.content for task in tasks if _age_s(stack_file(task)) >= limit_s]


def _age_s(path: Path) -> float:
    """Seconds since it was begun; 0 if it is not there."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
