"""A cell is quarantined only on evidence about its checkpoint: its host succeeds at another one, or at the canary."""

from collections.abc import Callable

import pytest

from pipeline.lake import Lake
from pipeline.sweep.circuit_breaker import SUSPICIOUS_STREAK, CircuitBreaker
from pipeline.sweep.retry_policy import POLICIES
from pipeline.sweep.task import ErrorClass, Outcome, Task, fail_all_cells
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import Scripted, drive, go

Work = Callable[[Task], list[Outcome]]


class Place(Scripted):
    """Backend whose canary task ends as `canary` says; counts canaries."""

    def __init__(self, work: Work, canary: ErrorClass | None = None) -> None:
        super().__init__(work)
        self.canary, self.canaries = canary, 0

    def _outcomes(self, task: Task) -> list[Outcome]:
        if task.canary_host is None:
            return self.work(task)
        self.canaries += 1
        if self.canary is None:
            return [Outcome(cell_id=cell.id) for cell in task.cells]
        return fail_all_cells(task, self.canary, "made for the test")


def failing(error_class: ErrorClass, *steps: int) -> Work:
    """A task function that fails for these steps, or for all."""

    def work(task: Task) -> list[Outcome]:
        if not steps or task.checkpoint.step in steps:
            return fail_all_cells(task, error_class, "made for the test")
        return stub.work(task)

    return work


def counted(lake: Lake) -> dict[str, int]:
    """Recorded attempts by class."""
    return dict(sum(lake.failure_counts().values(), start=type(next(iter(lake.failure_counts().values()), {}))()))


@pytest.mark.parametrize("error_class", ["crash", "timeout", "oom", "host_oom", "error"])
@pytest.mark.parametrize("checkpoints", [1, 4, 40])
def test_a_broken_place_condemns_nobody(tmp_path, lake, error_class, checkpoints):
    root = stub.history(tmp_path / "runs", list(range(checkpoints)))
    for _ in range(4):
        report = drive(root, lake, Place(failing(error_class), canary="crash"))
        assert report.exit_code == 1
        assert report.stop_reason
    assert lake.quarantined_cell_ids() == set()
    assert set(counted(lake)) == {"unconfirmed"}
    report = drive(root, lake, Place(failing(error_class, 0)))
    assert report.committed == checkpoints - 1
    one_run = {"crash": 5, "timeout": 2, "oom": 3, "host_oom": 2, "error": 1}[error_class]
    assert counted(lake)[error_class] == one_run, "only what a working place has seen counts"


def test_a_place_that_breaks_after_many_commits_is_noticed_after_few_failures(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(300)))
    attempts: list[int] = []

    def work(task: Task) -> list[Outcome]:
        attempts.append(1)
        return stub.work(task) if len(attempts) <= 40 else failing("crash")(task)

    report = drive(root, lake, Place(work, canary="crash"))
    assert (report.committed, report.exit_code) == (40, 1)
    assert len(attempts) <= 40 + SUSPICIOUS_STREAK + Scripted.capacity
    assert "canary" in report.stop_reason
    assert (lake.quarantined_cell_ids(), set(counted(lake))) == (set(), {"unconfirmed"})


@pytest.mark.parametrize(("error_class", "attempts"), [("crash", 5), ("timeout", 2), ("oom", 3), ("host_oom", 2)])
def test_alone_in_its_sweep_a_bad_checkpoint_is_condemned_by_one_canary_per_failure(
    tmp_path, lake, error_class, attempts
):
    root = stub.history(tmp_path / "runs", [0])
    place = Place(failing(error_class))
    report = drive(root, lake, place)
    assert (report.exit_code, place.canaries, len(lake.quarantined_cell_ids())) == (1, attempts, 1)
    assert counted(lake) == {error_class: attempts}


def test_no_canary_runs_where_other_checkpoints_show_that_the_place_works(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(9)), faults={3: "transient:1"})
    place = Place(failing("error", 0, 4))
    report = drive(root, lake, place)
    assert (report.committed, len(report.failures)) == (7, 2)
    assert place.canaries <= 1, "one, if the last task is a failing one"
    assert counted(lake) == {"error": 2, "transient": 1}


def test_a_permanent_failure_is_evidence_in_itself(tmp_path, lake):
    place = Place(failing("permanent"), canary="crash")
    drive(stub.history(tmp_path / "runs", [0]), lake, place)
    assert (place.canaries, len(lake.quarantined_cell_ids())) == (0, 1)


def test_failures_on_a_host_that_is_gone_count_as_the_loss_of_a_node(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])
    left = iter(range(3))

    def work(task: Task) -> list[Outcome]:
        if task.checkpoint.step == 0 and next(left, None) is not None:
            return fail_all_cells(task, "crash", "made for the test")
        return stub.work(task) if task.checkpoint.step == 0 else fail_all_cells(task, "changed", "made for the test")

    report = drive(root, lake, Place(work, canary="preempted"))
    assert report.committed == 1
    assert lake.quarantined_cell_ids() == set()
    assert counted(lake)["unconfirmed"] == 3


def test_a_host_that_never_answers_its_canary_ends_the_retries_of_a_run(tmp_path, lake):
    place = Place(failing("oom"), canary="preempted")
    report = drive(stub.history(tmp_path / "runs", [0]), lake, place)
    assert (report.exit_code, report.committed, lake.quarantined_cell_ids()) == (1, 0, set())
    assert place.canaries <= (POLICIES["preempted"].max_attempts or 0) + 1


def test_a_run_that_stops_itself_condemns_nobody(tmp_path, lake):
    """Five unusable checkpoints and then a broken place."""
    root = stub.history(tmp_path / "runs", list(range(8)))
    bad = failing("permanent", 0, 1)

    def work(task: Task) -> list[Outcome]:
        return bad(task) if task.checkpoint.step in (0, 1) else failing("crash")(task)

    report = drive(root, lake, Place(work, canary="crash"))
    assert report.stop_reason
    assert lake.quarantined_cell_ids() == set()


def test_the_inline_backend_runs_the_real_canary(tmp_path, lake, capsys):
    _, report = go(stub.history(tmp_path / "runs", [0]), lake, failing("oom"))
    assert (report.exit_code, len(lake.quarantined_cell_ids())) == (1, 1)
    assert "the canary task succeeded" in capsys.readouterr().err


def test_a_streak_is_counted_per_host_and_ends_with_a_success():
    breaker = CircuitBreaker()
    due = [breaker.record_host(host, succeeded=False) for host in "ab" * SUSPICIOUS_STREAK]
    assert due == [False] * (2 * SUSPICIOUS_STREAK - 2) + [True] * 2
    breaker.record_host("a", succeeded=True)
    assert not any(breaker.record_host("a", succeeded=False) for _ in range(SUSPICIOUS_STREAK - 1))
