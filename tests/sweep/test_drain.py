"""SIGTERM: running tasks finish, waiting tasks are left to a rerun."""

import os
import signal
import time

import pytest

from pipeline.sweep.run_report import RunReport
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import Scripted, drive, go


def test_sigterm_drains_what_runs_keeps_what_is_committed_and_exits_143(tmp_path, lake):
    steps = list(range(6))
    root = stub.history(tmp_path / "runs", steps, faults=dict.fromkeys(steps, "sigterm"))
    _, report = go(root, lake)
    assert (report.exit_code, report.committed, report.n_unfinished) == (143, 1, 5)
    for step in steps:
        (root / f"step{step}" / "fault").unlink()
    _, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 5)


def test_what_has_failed_besides_does_not_hide_that_work_is_left(tmp_path, lake):
    """Otherwise a job stopped at its time limit would not be requeued."""
    steps = list(range(6))
    root = stub.history(tmp_path / "runs", steps, faults={0: "permanent"})
    _, report = go(root, lake)
    assert report.exit_code == 1
    for step in steps[1:]:
        (root / f"step{step}" / "fault").write_text("sigterm")
    _, report = go(stub.history(root, [7, 8], faults={7: "sigterm", 8: "sigterm"}), lake)
    assert (report.exit_code, len(report.quarantined_cells), report.committed, report.n_unfinished) == (143, 1, 1, 1)
    _, report = go(root, lake)
    assert (report.exit_code, report.committed) == (1, 1), "nothing is left but what stands quarantined"


def test_a_run_that_gave_up_is_not_queued_again_for_a_signal():
    assert RunReport(stop_reason="5 of the first 5", signal_number=15, n_unfinished=5).exit_code == 1
    assert RunReport(signal_number=15, n_unfinished=5).exit_code == 143
    assert RunReport(signal_number=15).exit_code == 0


def test_a_drain_ends_at_its_deadline_though_tasks_still_run(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(6)))
    started = time.monotonic()
    report = drive(root, lake, Scripted(), drain_s=0.3)
    assert 0.3 <= time.monotonic() - started < 5
    assert (report.exit_code, report.committed, report.n_unfinished) == (143, 0, 6)


def test_a_retry_that_a_drain_cuts_off_is_left_to_a_rerun_not_a_failure(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0])

    def work(task: Task) -> list[Outcome]:
        os.kill(os.getpid(), signal.SIGTERM)
        return fail_all_cells(task, "preempted", "NodeDiedError: made for the test")

    _, report = go(root, lake, work)
    assert (report.exit_code, report.n_unfinished, report.failures) == (143, 1, {})


def test_a_first_ctrl_c_says_what_it_waits_for_and_that_a_second_stops_at_once(tmp_path, lake, capsys):
    root = stub.history(tmp_path / "runs", [0, 1])

    def work(task: Task) -> list[Outcome]:
        os.kill(os.getpid(), signal.SIGINT)
        return stub.work(task)

    _, report = go(root, lake, work)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "stopping" in line)
    assert "waiting up to" in line
    assert "runs@step" in line, "the checkpoint being measured"
    assert "a second Ctrl-C stops at once" in line
    assert (report.exit_code, report.n_unfinished) == (130, 1)


def test_a_second_ctrl_c_stops_at_once(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])

    def work(task: Task) -> list[Outcome]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # signals are handled between two instructions
        raise AssertionError("the second signal did not stop the task")

    with pytest.raises(KeyboardInterrupt):
        go(root, lake, work)
