"""The histories and the stand-in for measuring that a chaos run uses: slow enough to be killed, and known to be bad."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from pipeline.spec import Sweep
from pipeline.sweep.task import Outcome, Task
from tests.sweep import stub

BAD = ("permanent", "oom", "crash", "hang", "error", "permanent", "crash", "oom", "permanent", "crash")
"""Faults that no retry mends, in turn."""
FLAKY = ("halfway:1", "transient:1", "oom:1", "preempted:2", "crash:1", "host_oom:1")
"""Faults that a retry mends."""
TIMEOUT_S = 5.0
RUNNING = "running"
"""Folder beside the history with one empty file per task at work, named by the process that does it."""


def history(root: Path, tasks: int, rng: random.Random) -> set[int]:
    """Stub checkpoints of which one in 40 is bad and one in 20 flaky; returns the steps of the bad ones."""
    steps = list(range(tasks))
    spoilt = rng.sample(steps, max(tasks // 40, 2) + tasks // 20)
    bad, flaky = spoilt[: max(tasks // 40, 2)], spoilt[max(tasks // 40, 2) :]
    faults = dict(zip(bad, cycle(BAD), strict=False)) | dict(zip(flaky, cycle(FLAKY), strict=False))
    stub.history(root, steps, faults)
    (root.parent / RUNNING).mkdir()
    return set(bad)


def sweep(root: Path, address: str) -> Sweep:
    """Two cells per checkpoint, a CPU per task, on all that the cluster has."""
    return stub.sweep(root, n_corpora=2, slots=None, address=address, timeout_s=TIMEOUT_S, drain_s=5)


def work(task: Task) -> list[Outcome]:
    """What `stub.watched` does, a cell at a time, each a tenth of a second."""
    outcomes = []
    for cell in task.cells:
        with _seen(Path(task.checkpoint.path)):
            time.sleep(random.uniform(0.02, 0.2))
            outcomes += stub.watched(task.model_copy(update={"cells": (cell,)}))
    return outcomes


@contextmanager
def _seen(folder: Path) -> Iterator[None]:
    note = folder.parent.parent / RUNNING / str(os.getpid())
    note.touch()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
