"""Stub history, sweep and task function of a chaos run: slow enough to be killed, with known bad checkpoints."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from pipeline.spec import Sweep
from pipeline.sweep.task import Outcome, Task
from tests.support import stub_checkpoints as stub

BAD = ("permanent", "oom", "crash", "hang", "error", "permanent", "crash", "oom", "permanent", "crash")
"""Faults that no retry repairs, assigned in turn."""
FLAKY = ("halfway:1", "transient:1", "oom:1", "preempted:2", "crash:1", "host_oom:1")
"""Faults that a retry repairs."""
TIMEOUT_S = 5.0
RUNNING = "running"
"""Folder beside the history with one empty file per running task, named by its process id."""


def history(root: Path, tasks: int, rng: random.Random) -> set[int]:
    """Write stub checkpoints, one in 40 bad and one in 20 flaky; return the steps of the bad ones."""
    steps = list(range(tasks))
    faulty = rng.sample(steps, max(tasks // 40, 2) + tasks // 20)
    bad, flaky = faulty[: max(tasks // 40, 2)], faulty[max(tasks // 40, 2) :]
    faults = dict(zip(bad, cycle(BAD), strict=False)) | dict(zip(flaky, cycle(FLAKY), strict=False))
    stub.history(root, steps, faults)
    (root.parent / RUNNING).mkdir()
    return set(bad)


def sweep(root: Path, address: str) -> Sweep:
    """Build a sweep with two cells per checkpoint and one CPU per task, on the whole cluster."""
    return stub.sweep(root, n_corpora=2, slots=None, address=address, timeout_s=TIMEOUT_S, drain_s=5)


def work(task: Task) -> list[Outcome]:
    """Run `stub.watched` for one cell at a time, about a tenth of a second each."""
    outcomes = []
    for cell in task.cells:
        with _mark_running(Path(task.checkpoint.path)):
            time.sleep(random.uniform(0.02, 0.2))
            outcomes += stub.watched(task.model_copy(update={"cells": (cell,)}))
    return outcomes


@contextmanager
def _mark_running(folder: Path) -> Iterator[None]:
    marker = folder.parent.parent / RUNNING / str(os.getpid())
    marker.touch()
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)
