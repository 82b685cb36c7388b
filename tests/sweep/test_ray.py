"""The driver on a real local Ray: whatever befalls a task comes back as a typed outcome, and the others finish."""

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.spec import Resources
from pipeline.sweep.backend import Stages
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.sweep import stub

DEATHS = {"segv": "crash", "exit": "crash", "interrupt": "preempted"}
"""What the attempt is called, by how the worker ended."""
REFUSED = {"raise": "error", "two": "error", "unpicklable": "error"}
"""What must not come out of a worker, and does."""


def test_crashes_hangs_and_exceptions_are_budgeted_and_the_good_ones_finish(tmp_path: Path):
    once = [f"{name}:1" for name in DEATHS]
    faults = dict(enumerate(["crash", "hang", "oom:1", *once, *REFUSED]))
    root = stub.history(tmp_path / "runs", list(range(12)), faults=faults)
    lake = Lake(tmp_path / "lake")
    plan = make_plan(stub.sweep(root, cpus=4, slots=4, timeout_s=1), lake)
    report = run(plan, lake, "ray", stub.watched)

    names = {cell.id: faults.get(cell.checkpoint.step, "") for cell in plan.cells}
    attempts = {names[cell_id]: dict(classes) for cell_id, classes in lake.attempts().items()}
    assert attempts == {
        **{f"{name}:1": {error_class: 1} for name, error_class in DEATHS.items()},
        **{name: {error_class: 1} for name, error_class in REFUSED.items()},
        **{"crash": {"crash": 5}, "hang": {"timeout": 2}, "oom:1": {"oom": 1}},
    }
    assert {names[cell_id] for cell_id in lake.quarantined()} == {"crash", "hang"}
    assert {names[cell_id] for cell_id in names.keys() - lake.committed()} == {"crash", "hang", *REFUSED}
    assert (report.exit_code, report.committed) == (1, 7)
    stuck = lake.failures({cell_id for cell_id, name in names.items() if name == "hang"})[0]
    assert stuck.message == "no end after 1 s"
    assert "stub.py" in (stuck.traceback or ""), "the stack of the stuck task is kept"


def test_a_cluster_that_is_not_there_is_refused_at_once():
    from pipeline.sweep.ray_backend import RayBackend

    with pytest.raises(UsageError, match="nothing listens there"):
        RayBackend(Stages(lambda task: [], stub.work, lambda task: None), Resources(cpus=1, address="127.0.0.1:1"))
