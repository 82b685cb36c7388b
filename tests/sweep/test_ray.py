"""The driver on a real local Ray: whatever befalls a task comes back as a typed outcome, and the others finish."""

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.sweep import stub


def watched_stub(task):
    """The stub under the worker's own watchdog."""
    from pipeline.sweep.worker import watchdog

    with watchdog(task):
        return stub.work(task)


def test_crashes_hangs_and_exceptions_are_budgeted_and_the_good_ones_finish(tmp_path: Path):
    faults = {1: "crash", 2: "raise", 3: "hang", 4: "crash:2", 5: "oom:1"}
    root = stub.history(tmp_path / "runs", list(range(10)), faults=faults)
    lake = Lake(tmp_path / "lake")
    plan = make_plan(stub.sweep(root, cpus=4, slots=4, timeout_s=4), lake)
    report = run(plan, lake, "ray", watched_stub)

    by_step = {cell.checkpoint.step: cell.id for cell in plan.cells}
    assert lake.committed() == {by_step[step] for step in (0, 4, 5, 6, 7, 8, 9)}
    assert (report.exit_code, report.committed) == (1, 7)
    attempts = {step: dict(lake.attempts().get(cell_id, {})) for step, cell_id in by_step.items()}
    assert attempts[1] == {"crash": 5}
    assert attempts[2] == {"error": 1}
    assert attempts[3] == {"timeout": 2}
    assert attempts[4] == {"crash": 2}
    assert attempts[5] == {"oom": 1}
    assert lake.quarantined() == {by_step[1], by_step[3]}
    stuck = lake.failures({by_step[3]})[0]
    assert "time" in stuck.message or "4 s" in stuck.message
    assert "stub.py" in (stuck.traceback or ""), "the stack of the stuck task is kept"


def test_a_cluster_that_is_not_there_is_refused_at_once():
    from pipeline.spec import Resources
    from pipeline.sweep.backend import Stages
    from pipeline.sweep.ray_backend import RayBackend

    with pytest.raises(UsageError, match="nothing listens there"):
        RayBackend(Stages(stub.work, stub.work, print), Resources(cpus=1, address="127.0.0.1:1"))
