"""Attempts per cell by failure class, and the changes of each attempt."""

import pytest

from pipeline.lake import lake_status
from pipeline.spec import Corpus
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import Scripted, drive, go, refuse


def test_a_bad_checkpoint_is_quarantined_and_the_others_finish(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1, 2], faults={1: "permanent"})
    plan, report = go(root, lake, n_corpora=2)
    assert (report.exit_code, report.committed, len(report.failures)) == (1, 4, 2)
    bad = {cell.id for cell in plan.cells if cell.checkpoint.step == 1}
    assert lake.quarantined_cell_ids() == bad
    assert len(stub.tries(root, 1)) == 1
    plan, report = go(root, lake, refuse, n_corpora=2)
    assert report.exit_code == 1
    assert {cell.id for cell in report.quarantined_cells} == bad


def test_transient_failures_are_retried_and_written_down(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "transient:2"})
    plan, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 1)
    assert lake.failure_counts()[plan.cells[0].id] == {"transient": 2}
    assert lake.quarantined_cell_ids() == set()


def test_running_out_of_memory_halves_the_batch_until_the_budget_is_spent(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "oom"})
    _, report = go(root, lake, batch_tokens=1000)
    assert [line.split()[1] for line in stub.tries(root, 0)] == ["1000", "500", "250"]
    assert [failure.batch_tokens for failure in lake.failures(lake.quarantined_cell_ids())] == [1000, 500, 250]
    assert (report.exit_code, len(lake.quarantined_cell_ids())) == (1, 1)


def test_an_unforeseen_exception_waits_for_the_next_run_and_condemns_at_the_third(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "error"})
    for nth in (1, 2, 3):
        _, report = go(root, lake)
        assert report.exit_code == 1
        assert len(stub.tries(root, 0)) == nth
        assert len(lake.quarantined_cell_ids()) == (nth == 3)


def dies_after_its_first_commit(task: Task) -> list[Outcome]:
    """Outcomes of a worker that was killed after one of its cells had been committed."""
    stub.work(task.model_copy(update={"cells": task.cells[:1]}))
    return fail_all_cells(task, "crash", "WorkerCrashedError: made for the test")


def test_a_committed_cell_is_never_struck_for_the_death_of_its_worker(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0])
    plan, report = go(root, lake, dies_after_its_first_commit, n_corpora=2)
    assert (report.exit_code, report.committed) == (0, 2)
    assert lake.failure_counts() == {plan.cells[1].id: {"crash": 1}}
    assert lake.quarantined_cell_ids() == set()


@pytest.mark.parametrize(
    ("fault", "tries", "quarantined"),
    [
        ("host_oom", 2, True),
        ("timeout", 2, True),
        ("crash", 5, True),
        ("preempted", 20, False),
        ("changed", 1, False),
        ("setup", 2, False),
    ],
)
def test_each_class_has_its_budget(tmp_path, lake, fault, tries, quarantined):
    root = stub.history(tmp_path / "runs", [0, 1])
    asked: list[int] = []

    def work(task: Task) -> list[Outcome]:
        if task.checkpoint.step == 0:
            asked.append(task.attempt)
            return fail_all_cells(task, fault, "Error: made for the test")
        return stub.work(task)

    plan, report = go(root, lake, work)
    assert asked == list(range(1, tries + 1))
    assert (report.exit_code, report.committed, len(lake.quarantined_cell_ids())) == (1, 1, quarantined)
    if not quarantined:
        go(root, lake)
        assert lake.committed_cell_ids() == {cell.id for cell in plan.cells}, "the next run starts afresh"


def test_mixed_failures_of_one_task_halve_the_batch_too(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "mixed:1"})
    _, report = go(root, lake, n_corpora=2, batch_tokens=1000)
    assert [line.split()[1] for line in stub.tries(root, 0)] == ["1000", "500"]
    assert (report.exit_code, report.committed) == (0, 2)


def test_the_last_try_before_quarantine_runs_alone(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(8)))

    def crashing(task: Task) -> list[Outcome]:
        return fail_all_cells(task, "crash", "made for the test") if task.checkpoint.step == 3 else stub.work(task)

    backend = Scripted(crashing)
    report = drive(root, lake, backend)
    beside = [group for group in backend.together if 3 in group]
    assert (report.committed, len(lake.quarantined_cell_ids())) == (7, 1)
    assert len(beside) >= 5
    assert beside[-1] == {3}, "its fifth try had the backend to itself"


@pytest.mark.parametrize(("fault", "tries"), [("crash", 5), ("timeout", 2), ("host_oom", 2)])
def test_only_the_cell_that_ran_is_struck_when_its_worker_dies(tmp_path, lake, fault, tries):
    root = stub.history(tmp_path / "runs", [0])
    deadly: list[str] = []

    def work(task: Task) -> list[Outcome]:
        deadly.extend(() if deadly else (task.cells[0].id,))
        if task.cells[0].id == deadly[0]:
            return fail_all_cells(task, fault, "made for the test")
        return stub.work(task)

    _, report = go(root, lake, work, n_corpora=3)
    assert lake.quarantined_cell_ids() == set(deadly)
    assert {cell_id: dict(classes) for cell_id, classes in lake.failure_counts().items()} == {deadly[0]: {fault: tries}}
    assert (report.exit_code, report.committed) == (1, 2)


def test_a_failure_on_one_text_stands_though_another_of_its_name_was_measured(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "permanent"})
    sweeps = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "book.txt").write_text(folder)
        text = Corpus(kind="text", path=str(tmp_path / folder / "book.txt"))
        sweeps.append(stub.sweep(root).model_copy(update={"corpora": (text,)}))
    run(make_plan(sweeps[0], lake), lake, "inline", stub.work)
    (root / "step0" / "fault").unlink()
    run(make_plan(sweeps[1], lake), lake, "inline", stub.work)
    assert [f["corpus"] for f in lake_status(lake)["failures"]] == ["text:book"]
