"""Leases: two runs share the work; the lease of a dead run ends by time."""

from datetime import timedelta

import pytest

from pipeline.lake import Lake, run_records
from pipeline.lake.leases import LEASE_TIMEOUT, acquire_lease, release_lease
from pipeline.lake.records import utc_now
from pipeline.sweep.task import fail_all_cells
from pipeline.sweep.worker import settle_or_lease
from tests.support import lake_rows
from tests.support import stub_checkpoints as stub
from tests.support.ray_tasks import tasks
from tests.support.stub_runs import go

CONTENT = "c" * 32


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path / "lake")
    for run in ("run-1", "run-2"):
        lake.heartbeat(run, {"ended": False})
    return lake


def test_one_of_two_active_runs_gets_the_lease_until_it_is_released(lake):
    assert acquire_lease(lake, CONTENT, "run-1") == ""
    assert acquire_lease(lake, CONTENT, "run-1") == "", "a retry of the same run"
    assert acquire_lease(lake, CONTENT, "run-2") == "run-1"
    release_lease(lake, CONTENT, "run-2")
    assert acquire_lease(lake, CONTENT, "run-2") == "run-1", "only its holder releases it"
    release_lease(lake, CONTENT, "run-1")
    assert acquire_lease(lake, CONTENT, "run-2") == ""


@pytest.mark.parametrize("end", ["ended", "silent", "damaged", "deleted"])
def test_the_lease_of_a_run_that_is_not_active_is_taken_over(lake, end, monkeypatch):
    acquire_lease(lake, CONTENT, "run-1")
    if end == "ended":
        lake.heartbeat("run-1", {"ended": True})
    if end == "damaged":
        lake.store.put_or_replace("runs/run-1/progress.json", b"{}")
    if end == "deleted":
        lake.store.delete("runs/run-1/progress.json")
    if end == "silent":
        late = utc_now() + LEASE_TIMEOUT + timedelta(seconds=1)
        monkeypatch.setattr(run_records, "utc_now", lambda: late)
    assert acquire_lease(lake, CONTENT, "run-2") == ""
    assert acquire_lease(lake, CONTENT, "run-2") == ""


def test_a_task_is_settled_if_another_run_has_done_it_or_is_at_it(lake):
    (task,) = tasks(1, stub.sweep(lake.store.root).resources, lake.uri)
    assert settle_or_lease(task, lake) == []
    other = task.model_copy(update={"run_id": "run-2"})
    acquire_lease(lake, task.checkpoint.content, "run")
    lake.heartbeat("run", {"ended": False})
    (outcome,) = settle_or_lease(other, lake)
    assert (outcome.error_class, outcome.message) == ("leased", "run run is measuring this checkpoint")
    lake_rows.commit(lake, task.checkpoint)
    release_lease(lake, task.checkpoint.content, "run")
    (outcome,) = settle_or_lease(other, lake)
    assert (outcome.ok, outcome.by_another_run, outcome.n_rows) == (True, True, 0)


def test_what_another_run_measures_is_waited_for_and_counted_as_its(tmp_path):
    lake = Lake(tmp_path / "fresh")
    root = stub.history(tmp_path / "runs", [0, 1])
    waits: list[str] = []

    def work(task):
        if task.checkpoint.step == 0 and len(waits) < 3:
            waits.append(task.run_id)
            if len(waits) == 3:
                stub.work(task)  # the other run commits it
            return fail_all_cells(task, "leased", "run x is measuring this checkpoint")
        settled = settle_or_lease(task, lake)
        return settled or stub.work(task)

    _, report = go(root, lake, work)
    assert (report.exit_code, report.committed, report.by_others, report.failures) == (0, 1, 1, {})
    assert lake.failure_counts() == {}
