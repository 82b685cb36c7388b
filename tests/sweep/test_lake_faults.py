"""A lake that refuses writes, once or permanently."""

import errno
import os

import pytest

from pipeline.errors import LakeError
from pipeline.lake.verify import verify_lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from pipeline.sweep.worker import classify_error, format_error
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import Scripted, drive, go


def test_a_lake_that_cannot_be_written_ends_the_run_and_condemns_nobody(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1, 2], faults=dict.fromkeys([0, 1, 2], "infra"))
    _, report = go(root, lake)
    assert report.exit_code == 1
    assert report.stop_reason == "InfraError: made for the test"
    assert lake.quarantined_cell_ids() == set()
    assert lake.failure_counts() == {}


def test_one_hiccup_that_hits_all_that_runs_at_once_counts_once(tmp_path, lake, monkeypatch):
    """All four tasks fail within the first pause, which counts once; three in a row would end the run."""
    root = stub.history(tmp_path / "runs", list(range(4)), faults=dict.fromkeys(range(4), "infra:1"))
    monkeypatch.setattr("pipeline.sweep.retry_policy.draw_backoff_s", lambda *_: 2.0)
    backend = Scripted(stub.work)
    report = drive(root, lake, backend)
    assert len(backend.together[3]) == 4
    assert (report.exit_code, report.committed, report.stop_reason) == (0, 4, "")


def test_one_lake_error_of_a_task_of_many_cells_counts_once(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "infra:1"})
    _, report = go(root, lake, n_corpora=4)
    assert (report.exit_code, report.committed) == (0, 4)


def test_a_heartbeat_that_fails_is_said_and_the_run_goes_on(tmp_path, lake, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise LakeError("lake", "no space left", "Make room")

    monkeypatch.setattr(lake, "heartbeat", full)
    _, report = go(stub.history(tmp_path / "runs", [0, 1]), lake)
    assert (report.exit_code, report.committed) == (0, 2)
    assert "no space left" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["committed_cell_ids", "record_attempt"])
def test_one_hiccup_of_the_lake_loses_no_retry(tmp_path, lake, monkeypatch, broken):
    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "transient:1"})
    plan = make_plan(stub.sweep(root, 3), lake)
    right, calls = getattr(lake, broken), []

    def hiccup(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise LakeError("lake", "stale file handle", "Look at the mount")
        return right(*arguments, **options)

    monkeypatch.setattr(lake, broken, hiccup)
    report = run(plan, lake, "inline", stub.work)
    assert (report.exit_code, report.committed, report.stop_reason) == (0, 6, "")


def test_a_disk_that_fills_up_ends_the_run_with_whole_files_and_a_rerun_does_the_rest(tmp_path, lake, monkeypatch):
    """Three attempts, none of them counted against a cell."""
    root = stub.history(tmp_path / "runs", [0, 1, 2, 3])
    tried: list[str] = []

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work(task: Task) -> list[Outcome]:
        tried.append(task.checkpoint.label)
        if len(tried) == 2:
            monkeypatch.setattr(os, "fsync", full)
        try:
            return stub.work(task)
        except LakeError as error:
            return fail_all_cells(task, classify_error(error), format_error(error))

    _, report = go(root, lake, work)
    assert (report.exit_code, report.committed, len(tried)) == (1, 1, 4)
    assert "No space left on device" in report.stop_reason
    assert (verify_lake(lake), lake.store.list("_staging"), lake.failure_counts()) == ([], [], {})
    monkeypatch.undo()
    _, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 3)
