"""Errors of a real Ray: its memory monitor, and an environment that cannot be created."""

import time
from pathlib import Path

import pytest
import ray
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory

from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task
from tests.support import stub_checkpoints as stub

pytestmark = pytest.mark.slow

MARGIN, PIECE = 2 * 2**30, 50 * 2**20
"""Bytes that a node may use beyond its present use, and bytes per allocation."""


def hog(task: Task) -> list[Outcome]:
    """Allocate more memory than the node has for the first checkpoint; measure the others."""
    held = []
    while task.checkpoint.step == 0 and len(held) * PIECE < 2 * MARGIN:
        held.append(b"." * PIECE)
    time.sleep(30 if held else 0)
    return stub.work(task)


def test_who_takes_too_much_memory_is_killed_by_rays_monitor_gets_more_and_is_condemned(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    monkeypatch.setenv("RAY_memory_usage_threshold", str((get_used_memory() + MARGIN) / get_system_memory()))
    root = stub.history(tmp_path / "runs", [0, 1, 2])
    lake = Lake(tmp_path / "lake")
    plan = make_plan(stub.sweep(root, cpus=2, slots=2), lake)
    report = run(plan, lake, "ray", hog)
    (bad,) = lake.quarantined_cell_ids()
    assert {cell.id: cell.checkpoint.step for cell in plan.cells}[bad] == 0
    assert lake.failure_counts() == {bad: {"host_oom": 2}}
    assert (report.exit_code, report.committed) == (1, 2)
    for failure in lake.failures({bad}):
        assert "low on memory" in failure.message
        assert "ray::measure" in (failure.traceback or ""), "who took how much, as Ray has it, is kept"


def test_an_environment_that_cannot_be_made_ends_the_run_and_condemns_nobody(tmp_path: Path, monkeypatch):
    begin = ray.init
    monkeypatch.setattr(ray, "init", lambda *a, **k: begin(*a, **k, runtime_env={"conda": "no-such-environment"}))
    root = stub.history(tmp_path / "runs", list(range(6)))
    lake = Lake(tmp_path / "lake")
    plan = make_plan(stub.sweep(root, cpus=2, slots=2), lake)
    report = run(plan, lake, "ray", stub.work)
    assert "RuntimeEnvSetupError: no fault of theirs" in report.stop_reason
    assert (report.exit_code, report.committed, lake.quarantined_cell_ids()) == (1, 0, set())
    assert "conda" in lake.failures({cell.id for cell in plan.cells})[0].message.lower(), "the cause"
    assert all(set(attempts) == {"setup"} for attempts in lake.failure_counts().values())
    monkeypatch.undo()
    assert run(make_plan(plan.sweep, lake), lake, "inline", stub.work).committed == 6
