"""The driver on a real local Ray: every failure is a typed outcome, and the other tasks finish."""

import os
import re
import signal
import time
from pathlib import Path
from threading import Thread

import pytest

from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.spec import Resources
from pipeline.sweep.backend import TaskFunctions
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import RAY_QUEUE_LENGTH, run
from pipeline.sweep.task import Outcome, Task
from tests.support import stub_checkpoints as stub

CRASHES = ("segv", "exit", "_exit", "abort", "term")
DEATHS = {**dict.fromkeys(CRASHES, "crash"), "interrupt": "preempted"}
"""Failure class by way of the worker's death."""
TRIED_AGAIN = {"memory": "host_oom", "gpu_memory": "oom", "transient": "transient"}
"""Failures that are retried."""
REFUSED = {"raise": "error", "two": "error", "unpicklable": "error"}
"""Results that no worker should return."""


def test_crashes_hangs_and_exceptions_are_budgeted_and_the_good_ones_finish(tmp_path: Path):
    once = [f"{name}:1" for name in (*DEATHS, *TRIED_AGAIN)]
    faults = dict(enumerate(["crash", "hang", "stuck", "permanent", *once, *REFUSED]))
    root = stub.history(tmp_path / "runs", list(range(20)), faults=faults)
    lake = Lake(tmp_path / "lake")
    plan = make_plan(stub.sweep(root, cpus=4, slots=4, timeout_s=1), lake)
    report = run(plan, lake, "ray", stub.watched)

    names = {cell.id: faults.get(cell.checkpoint.step, "") for cell in plan.cells}
    attempts = {names[cell_id]: dict(classes) for cell_id, classes in lake.failure_counts().items()}
    assert attempts == {
        **{f"{name}:1": {error_class: 1} for name, error_class in (DEATHS | TRIED_AGAIN).items()},
        **{name: {error_class: 1} for name, error_class in REFUSED.items()},
        **{"crash": {"crash": 5}, "hang": {"timeout": 2}, "stuck": {"timeout": 2}, "permanent": {"permanent": 1}},
    }
    condemned = {"crash", "hang", "stuck", "permanent"}
    assert {names[cell_id] for cell_id in lake.quarantined_cell_ids()} == condemned
    assert {names[cell_id] for cell_id in names.keys() - lake.committed_cell_ids()} == {*condemned, *REFUSED}
    assert (report.exit_code, report.committed) == (1, 20 - len(condemned) - len(REFUSED))
    stuck = lake.failures({cell_id for cell_id, name in names.items() if name == "hang"})[0]
    assert re.fullmatch(r"no end after 1 s: in stub_checkpoints\.py:\d+", stuck.message)
    assert "stub_checkpoints.py" in (stuck.traceback or ""), "the stack of the stuck task is kept"


def once_told(task: Task) -> list[Outcome]:
    """Seconds from the stop to the end of the run."""
    folder = Path(task.checkpoint.path)
    (folder / "begun").touch()
    while not (folder.parent / "told").exists():
        time.sleep(0.05)
    time.sleep(3)  # more than the driver may take to hear of it
    return [stub.commit(task, cell) for cell in task.cells]


def test_what_waits_within_ray_is_taken_back_when_the_run_is_told_to_stop(tmp_path: Path, lake):
    n = 12
    root = stub.history(tmp_path / "runs", list(range(n)))

    def tell() -> None:
        while len(list(root.glob("*/begun"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        (root / "told").touch()

    Thread(target=tell, daemon=True).start()
    report = run(make_plan(stub.sweep(root, cpus=2, slots=2), lake), lake, "ray", once_told)
    assert n - 2 <= RAY_QUEUE_LENGTH, "all that did not run was within Ray"
    assert (report.exit_code, report.committed, report.n_unfinished) == (143, 2, n - 2)
    assert len(list(root.glob("*/begun"))) == 2
    plan = make_plan(stub.sweep(root, cpus=2, slots=2), lake)
    assert run(plan, lake, "inline", stub.work).committed == n - 2


def test_a_cluster_that_is_not_there_is_refused_at_once():
    from pipeline.sweep.ray_backend import RayBackend

    with pytest.raises(UsageError, match="nothing listens there"):
        RayBackend(
            TaskFunctions(lambda task: [], stub.work, lambda task: None),
            Resources(cpus=1, address="127.0.0.1:1"),
        )
