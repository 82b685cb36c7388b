"""Watchdog inside a worker process, which ends the process after its timeout and leaves the stack in a file.

The file exists on the node while an attempt is in flight. The time since its last change is the duration of the current
stage (loading, or one cell). The driver uses the file to tell a stuck task from a queued one.
"""

import faulthandler
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import cache
from pipeline.progress import report_progress
from pipeline.sweep.task import Task


@contextmanager
def mark_in_flight(task: Task) -> Iterator[None]:
    """Create the attempt's file and delete it on exit; the file stays if the process is killed."""
    path = stack_file(task)
    path.touch()
    try:
        with report_progress(_progress_file(task).write_text):
            yield
    finally:
        path.unlink(missing_ok=True)
        _progress_file(task).unlink(missing_ok=True)


def read_progress(tasks: Iterable[Task]) -> list[str]:
    """Return the progress of those of the tasks that run on this node, one line for the current cell of each task.

    A line is such as `MODEL@STEP ...: 96 of 512 contexts`.
    """
    files = [_progress_file(task) for task in tasks]
    texts = [path.read_text() for path in files if path.exists()]
    return [text for text in texts if text]


def _progress_file(task: Task) -> Path:
    return stack_file(task).with_suffix(".progress")


@contextmanager
def exit_on_timeout(task: Task) -> Iterator[None]:
    """Dump the stack and end the process after the timeout, even if it hangs in C code. Use within `mark_in_flight`."""
    with stack_file(task).open("w") as file:
        os.utime(file.fileno())  # opening an empty file does not change its modification time
        faulthandler.dump_traceback_later(task.resources.timeout_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def stack_file(task: Task) -> Path:
    return cache.folder("stacks") / f"{task.run_id}-{task.checkpoint.content}-{task.attempt}.txt"


def read_stack(task: Task) -> str:
    """Return the stack that the watchdog left on this node; empty if the watchdog did not end the task here."""
    path = stack_file(task)
    return path.read_text() if path.exists() else ""


def innermost_line(stack: str) -> str:
    """Return FILE:LINE of the main thread's innermost frame; the main thread is listed last. Empty without a stack."""
    main = stack.rpartition("(most recent call first):")[2]
    found = re.search(r'File "(?:.*/)?(.+?)", line (\d+)', main)
    return f"{found[1]}:{found[2]}" if found else ""


def find_stuck(tasks: Iterable[Task], factor: float) -> list[str]:
    """Return the content digest of each task on this node whose current stage has lasted `factor` timeouts or more."""
    return [t.checkpoint.content for t in tasks if _age_s(stack_file(t)) >= factor * t.resources.timeout_s]


def is_in_flight(task: Task) -> bool:
    """Return True if the attempt runs on this node, or was killed on this node."""
    return stack_file(task).exists()


def _age_s(path: Path) -> float:
    """Return the seconds since the file was last touched; 0 if it does not exist."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
