"""The driver's promises, on the inline backend with stub work."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipeline.errors import LakeError, UsageError
from pipeline.sweep.task import Outcome, Task, failed
from tests.sweep import stub


@pytest.fixture
def lake(tmp_path: Path):
    from pipeline.lake import Lake

    return Lake(tmp_path / "lake")


def go(root: Path, lake, work=stub.work, retry: bool = False, **changes):
    """Plan and run the stub sweep over `root`; returns the plan and the report."""
    from pipeline.sweep.plan import make_plan
    from pipeline.sweep.run import run

    plan = make_plan(stub.sweep(root, **changes), lake, retry)
    return plan, run(plan, lake, "inline", work)


def refuse(task):
    raise AssertionError("nothing should have been submitted")


def test_every_wanted_cell_is_committed_once_and_a_rerun_submits_nothing(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1, 2, 10])
    plan, report = go(root, lake, n_corpora=2)
    assert (report.exit_code, report.committed, len(plan.cells)) == (0, 8, 8)
    assert lake.committed() == {cell.id for cell in plan.cells}
    plan, report = go(root, lake, refuse, n_corpora=2)
    assert (report.exit_code, report.committed, plan.todo) == (0, 0, ())


def test_one_new_checkpoint_runs_exactly_its_cells(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])
    go(root, lake)
    stub.history(root, [2])
    plan, report = go(root, lake)
    assert [cell.checkpoint.revision for cell in plan.todo] == ["step2"]
    assert plan.reasons() == {"new checkpoint": 1}
    assert len(stub.tries(root, 0)) == len(stub.tries(root, 2)) == report.committed == 1


def test_a_new_corpus_runs_alone_and_says_so(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])
    go(root, lake)
    plan, report = go(root, lake, n_corpora=2)
    assert plan.reasons() == {"missing corpus": 2}
    assert (report.exit_code, report.committed) == (0, 2)


def test_a_bad_checkpoint_is_quarantined_and_the_others_finish(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1, 2], faults={1: "permanent"})
    plan, report = go(root, lake, n_corpora=2)
    assert (report.exit_code, report.committed, len(report.failures)) == (1, 4, 2)
    bad = {cell.id for cell in plan.cells if cell.checkpoint.step == 1}
    assert lake.quarantined() == bad
    assert len(stub.tries(root, 1)) == 1
    plan, report = go(root, lake, refuse, n_corpora=2)
    assert report.exit_code == 1
    assert {cell.id for cell in report.held} == bad


def test_quarantined_cells_are_tried_again_when_asked_or_when_their_files_change(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "permanent", 1: "permanent"})
    go(root, lake)
    (root / "step0" / "fault").unlink()
    _, report = go(root, lake, retry=True)
    assert (report.committed, report.exit_code) == (1, 1)
    assert len(stub.tries(root, 1)) == 2
    (root / "step1" / "fault").unlink()
    (root / "step1" / "model.safetensors").write_bytes(b"repaired weights")
    _, report = go(root, lake)
    assert (report.committed, report.exit_code) == (1, 0)


def test_transient_failures_are_retried_and_written_down(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "transient:2"})
    plan, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 1)
    assert lake.attempts()[plan.cells[0].id] == {"transient": 2}
    assert lake.quarantined() == set()


def test_running_out_of_memory_halves_the_batch_until_the_budget_is_spent(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "oom"})
    _, report = go(root, lake, batch_tokens=1000)
    assert [line.split()[1] for line in stub.tries(root, 0)] == ["1000", "500", "250"]
    assert (report.exit_code, len(lake.quarantined())) == (1, 1)


def test_an_unforeseen_exception_waits_for_the_next_run_and_condemns_at_the_third(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "error"})
    for run in (1, 2, 3):
        _, report = go(root, lake)
        assert report.exit_code == 1
        assert len(stub.tries(root, 0)) == run
        assert len(lake.quarantined()) == (run == 3)


def test_the_circuit_breaker_stops_a_sweep_whose_first_tasks_all_fail_alike(tmp_path, lake):
    steps = list(range(20))
    root = stub.history(tmp_path / "runs", steps, faults=dict.fromkeys(steps, "error"))
    _, report = go(root, lake)
    assert report.exit_code == 1
    assert "defect" in report.stopped
    assert sum(len(stub.tries(root, step)) for step in steps) == 5
    assert lake.quarantined() == set()


def test_a_lake_that_cannot_be_written_ends_the_run_and_condemns_nobody(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1, 2], faults=dict.fromkeys([0, 1, 2], "infra"))
    _, report = go(root, lake)
    assert report.exit_code == 1
    assert "cannot be written" in report.stopped
    assert lake.quarantined() == set()
    assert lake.attempts() == {}


def test_sigterm_drains_what_runs_keeps_what_is_committed_and_exits_143(tmp_path, lake):
    steps = list(range(6))
    root = stub.history(tmp_path / "runs", steps, faults=dict.fromkeys(steps, "sigterm"))
    _, report = go(root, lake)
    assert (report.exit_code, report.committed, report.unfinished) == (143, 1, 5)
    for step in steps:
        (root / f"step{step}" / "fault").unlink()
    _, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 5)


def test_equal_weights_run_once_and_both_labels_get_rows(tmp_path, lake):
    from pipeline import lake as lakes

    root = stub.history(tmp_path / "runs", [0, 1], same=True)
    plan, report = go(root, lake)
    assert (len(plan.checkpoints), len(plan.cells), report.committed) == (2, 1, 1)
    found = lakes.open(lake.uri).sql("select step, count(*) from layers group by step order by step").fetchall()
    assert found == [(0, stub.LAYERS), (1, stub.LAYERS)]


def test_a_limit_runs_that_many_cells_and_a_rerun_the_rest(tmp_path, lake):
    from pipeline.sweep.plan import limited, make_plan
    from pipeline.sweep.run import run

    root = stub.history(tmp_path / "runs", [0, 1, 2, 3])
    report = run(limited(make_plan(stub.sweep(root), lake), 3), lake, "inline", stub.work)
    assert (report.exit_code, report.committed) == (0, 3)
    _, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 1)


def test_a_renamed_history_with_equal_content_costs_nothing(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])
    go(root, lake)
    shutil.copytree(root, tmp_path / "copy")
    plan, report = go(tmp_path / "copy", lake, refuse)
    assert (plan.todo, report.exit_code) == ((), 0)
    assert {named.label.model for named in lake.labels()} == {"runs", "copy"}


def dies_after_its_first_commit(task: Task) -> list[Outcome]:
    """What a backend reports of a worker that was killed when one of its cells was already in the lake."""
    stub.work(task.model_copy(update={"cells": task.cells[:1]}))
    return failed(task, "crash", "WorkerCrashedError: made for the test")


def test_a_committed_cell_is_never_struck_for_the_death_of_its_worker(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0])
    plan, report = go(root, lake, dies_after_its_first_commit, n_corpora=2)
    assert (report.exit_code, report.committed) == (0, 2)
    assert lake.attempts() == {plan.cells[1].id: {"crash": 1}}
    assert lake.quarantined() == set()


def test_retrying_uncovers_a_committed_cell_whose_tombstone_was_for_a_failure(tmp_path, lake):
    from pipeline.lake import Tombstone

    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "permanent"})
    plan, _ = go(root, lake)
    (root / "step0" / "fault").unlink()
    stub.work(
        Task(
            lake=lake.uri,
            run_id="r",
            checkpoint=plan.cells[0].checkpoint,
            cells=plan.cells[:1],
            resources=plan.sweep.resources,
        )
    )
    hidden = plan.cells[1].id
    lake.quarantine(Tombstone(cell_id=hidden, reason="looks odd", by="a person"))
    plan, report = go(root, lake, refuse, retry=True)
    assert lake.quarantined() == {hidden}, "what a person has hidden stays hidden"
    assert (report.exit_code, [cell.id for cell in report.held]) == (1, [hidden])


@pytest.mark.parametrize(
    ("fault", "tries", "quarantined"),
    [
        ("host_oom", 2, True),
        ("timeout", 2, True),
        ("crash", 5, True),
        ("preempted", 20, False),
        ("changed", 1, False),
        ("setup", 1, False),
    ],
)
def test_each_class_has_its_budget(tmp_path, lake, fault, tries, quarantined):
    root = stub.history(tmp_path / "runs", [0, 1])
    asked: list[int] = []

    def work(task: Task) -> list[Outcome]:
        if task.checkpoint.step == 0:
            asked.append(task.attempt)
            return failed(task, fault, "Error: made for the test")
        return stub.work(task)

    plan, report = go(root, lake, work)
    assert asked == list(range(1, tries + 1))
    assert (report.exit_code, report.committed, len(lake.quarantined())) == (1, 1, quarantined)
    if not quarantined:
        go(root, lake)
        assert lake.committed() == {cell.id for cell in plan.cells}, "the next run starts afresh"


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


def test_mixed_failures_of_one_task_halve_the_batch_too(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0], faults={0: "mixed:1"})
    _, report = go(root, lake, n_corpora=2, batch_tokens=1000)
    assert [line.split()[1] for line in stub.tries(root, 0)] == ["1000", "500"]
    assert (report.exit_code, report.committed) == (0, 2)


def test_two_histories_of_one_name_are_refused(tmp_path, lake):
    from pipeline.spec import Local
    from pipeline.sweep.plan import make_plan

    wanted = stub.sweep(stub.history(tmp_path / "a" / "runs", [0]))
    other = stub.history(tmp_path / "b" / "runs", [0])
    (other / "step0" / "model.safetensors").write_bytes(b"others")
    two = wanted.model_copy(update={"checkpoints": (*wanted.checkpoints, Local(local=str(other)))})
    with pytest.raises(UsageError, match="two of that name"):
        make_plan(two, lake)


class Scripted:
    """A backend of four slots that finishes one task per call, or none; it remembers who ran beside whom."""

    capacity = 4

    def __init__(self, work=None) -> None:
        self.work, self.queue, self.together = work, [], []

    def submit(self, task: Task) -> None:
        self.queue.append(task)
        self.together.append({t.checkpoint.step for t in self.queue})

    def wait(self, timeout_s: float):
        if self.work is None:
            os.kill(os.getpid(), signal.SIGTERM)
            return []
        return [(task, self.work(task)) for task in [self.queue.pop(0)]] if self.queue else []

    def withdraw(self) -> list[Task]:
        return []

    def close(self) -> None:
        pass


def drive(root: Path, lake, backend: Scripted, **changes):
    from pipeline.sweep.driver import Driver
    from pipeline.sweep.plan import make_plan
    from pipeline.sweep.progress import Progress

    plan = make_plan(stub.sweep(root, **changes), lake)
    return Driver(plan, lake, backend, "run", Progress(len(plan.todo))).run()


def test_the_last_try_before_quarantine_runs_alone(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(8)))

    def crashing(task: Task) -> list[Outcome]:
        return failed(task, "crash", "made for the test") if task.checkpoint.step == 3 else stub.work(task)

    backend = Scripted(crashing)
    report = drive(root, lake, backend)
    beside = [group for group in backend.together if 3 in group]
    assert (report.committed, len(lake.quarantined())) == (7, 1)
    assert len(beside) >= 5
    assert beside[-1] == {3}, "its fifth try had the backend to itself"


def test_a_drain_ends_at_its_deadline_though_tasks_still_run(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(6)))
    started = time.monotonic()
    report = drive(root, lake, Scripted(), drain_s=0.3)
    assert 0.3 <= time.monotonic() - started < 5
    assert (report.exit_code, report.committed, report.unfinished) == (143, 0, 6)


@pytest.mark.parametrize(("fault", "tries"), [("crash", 5), ("timeout", 2), ("host_oom", 2)])
def test_only_the_cell_that_ran_is_struck_when_its_worker_dies(tmp_path, lake, fault, tries):
    root = stub.history(tmp_path / "runs", [0])
    deadly: list[str] = []

    def work(task: Task) -> list[Outcome]:
        deadly.extend(() if deadly else (task.cells[0].id,))
        if task.cells[0].id == deadly[0]:
            return failed(task, fault, "made for the test")
        return stub.work(task)

    _, report = go(root, lake, work, n_corpora=3)
    assert lake.quarantined() == set(deadly)
    assert {cell_id: dict(classes) for cell_id, classes in lake.attempts().items()} == {deadly[0]: {fault: tries}}
    assert (report.exit_code, report.committed) == (1, 2)


@pytest.mark.parametrize("broken", ["committed", "record_attempt"])
def test_one_hiccup_of_the_lake_loses_no_retry(tmp_path, lake, monkeypatch, broken):
    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "transient:1"})
    from pipeline.sweep.plan import make_plan
    from pipeline.sweep.run import run

    plan = make_plan(stub.sweep(root, 3), lake)
    right, calls = getattr(lake, broken), []

    def hiccup(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise LakeError("lake", "stale file handle", "Look at the mount")
        return right(*arguments)

    monkeypatch.setattr(lake, broken, hiccup)
    report = run(plan, lake, "inline", stub.work)
    assert (report.exit_code, report.committed, report.stopped) == (0, 6, "")


def test_a_retry_that_a_drain_cuts_off_is_left_to_a_rerun_not_a_failure(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0])

    def work(task: Task) -> list[Outcome]:
        os.kill(os.getpid(), signal.SIGTERM)
        return failed(task, "preempted", "NodeDiedError: made for the test")

    _, report = go(root, lake, work)
    assert (report.exit_code, report.unfinished, report.failures) == (143, 1, {})


def test_a_failure_on_one_text_stands_though_another_of_its_name_was_measured(tmp_path, lake):
    from pipeline.lake import status
    from pipeline.spec import Corpus

    root = stub.history(tmp_path / "runs", [0], faults={0: "permanent"})
    sweeps = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "book.txt").write_text(folder)
        text = Corpus(kind="text", path=str(tmp_path / folder / "book.txt"))
        sweeps.append(stub.sweep(root).model_copy(update={"corpora": (text,)}))
    from pipeline.sweep.plan import make_plan
    from pipeline.sweep.run import run

    run(make_plan(sweeps[0], lake), lake, "inline", stub.work)
    (root / "step0" / "fault").unlink()
    run(make_plan(sweeps[1], lake), lake, "inline", stub.work)
    assert [f["corpus"] for f in status(lake)["failures"]] == ["text:book"]
