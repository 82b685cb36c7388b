"""Driver process of a drain test: its tasks end three seconds after four of them have begun.

Command: python -m tests.support.four_task_driver RUNS LAKE ADDRESS
"""

import os
import sys
import time
from pathlib import Path

from pipeline.lake import Lake
from pipeline.spec import Sweep
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task
from tests.support import stub_checkpoints as stub

SLOTS = 4
TASK_S = 3.0
DRAINED_S = 6.0
"""Limit from the stop to the end of the run, when four tasks have just begun."""


def three_seconds(task: Task) -> list[Outcome]:
    folder = Path(task.checkpoint.path)
    (folder / "begun").touch()
    while len(begun(folder.parent)) < SLOTS:
        time.sleep(0.05)
    time.sleep(TASK_S)
    return [stub.commit(task, cell) for cell in task.cells]


def begun(root: Path) -> list[Path]:
    return list(root.glob("*/begun"))


def crowded() -> float:
    """Return the load per core, at least 1: the factor by which a busy machine is slower."""
    return max(os.getloadavg()[0] / (os.cpu_count() or 1), 1)


def main(runs: str, lake: str, address: str) -> int:
    plan = make_plan(sweep(Path(runs), address), Lake(lake))
    return run(plan, Lake(lake), "ray", three_seconds).exit_code


def sweep(runs: Path, address: str) -> Sweep:
    return stub.sweep(runs, cpus=SLOTS, slots=SLOTS, address=address)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
