"""Circuit breaker: a run whose first checkpoints all fail alike stops and quarantines nothing."""

import pytest

from pipeline.sweep.circuit_breaker import CircuitBreaker
from pipeline.sweep.task import ErrorClass, Outcome
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import go

WELL = Outcome(cell_id="c")


def ill(error_class: ErrorClass = "error", message: str = "KeyError: 'x'") -> Outcome:
    return Outcome(cell_id="c", error_class=error_class, message=message)


def stopped(*ends: Outcome) -> int:
    """Number of checkpoints after which the breaker trips; 0 if it does not."""
    circuit = CircuitBreaker()
    said = [circuit.record_task(str(index), [end]) for index, end in enumerate(ends)]
    return next((index + 1 for index, reason in enumerate(said) if reason), 0)


@pytest.mark.parametrize(
    ("ends", "at"),
    [
        ([ill()] * 5, 5),
        ([ill(message=f"KeyError: '{i}'") for i in range(5)], 5),
        ([ill("crash", "WorkerCrashedError: died")] * 5, 5),
        ([ill("timeout", "no end after 9 s")] * 5, 5),
        ([ill("setup", "RuntimeEnvSetupError: no conda")] * 5, 5),
        ([ill("setup", f"{i} bytes in scratch: too many") for i in range(25)], 0),
        ([*[ill()] * 4, WELL, *[ill()] * 6], 0),
        ([*[ill()] * 4, ill(message="TypeError: y")], 0),
        ([ill("permanent")] * 25, 0),
        ([ill("oom")] * 25, 0),
        ([WELL, ill()] * 9 + [ill()] * 2, 20),
        ([WELL, ill()] * 10, 0),
        ([WELL] * 20 + [ill()] * 50, 0),
    ],
)
def test_it_takes_five_of_five_or_more_than_half_of_twenty_that_fail_alike(ends, at):
    assert stopped(*ends) == at


def test_one_checkpoint_that_fails_five_times_is_one():
    circuit = CircuitBreaker()
    assert not any(circuit.record_task("same", [ill("crash")]) for _ in range(20))


def test_the_last_try_of_a_checkpoint_counts():
    circuit = CircuitBreaker()
    for content in "abcd":
        circuit.record_task(content, [ill("crash")])
    circuit.record_task("a", [WELL])
    assert not circuit.record_task("e", [ill("crash")])


def test_a_task_of_which_any_cell_was_measured_counts_as_well():
    circuit = CircuitBreaker()
    assert not any(circuit.record_task(str(i), [WELL, ill()]) for i in range(5))


def test_the_circuit_breaker_stops_a_sweep_whose_first_tasks_all_fail_alike(tmp_path, lake):
    steps = list(range(20))
    root = stub.history(tmp_path / "runs", steps, faults=dict.fromkeys(steps, "error"))
    _, report = go(root, lake)
    assert report.exit_code == 1
    assert "5 of the first 5 checkpoints failed with ErrorError" in report.stop_reason
    assert sum(len(stub.tries(root, step)) for step in steps) == 5
    assert lake.quarantined_cell_ids() == set()


def test_a_defect_condemns_nobody_however_often_it_is_run_and_all_goes_on_when_it_is_mended(tmp_path, lake):
    steps = list(range(5))
    root = stub.history(tmp_path / "runs", steps, faults=dict.fromkeys(steps, "error"))
    for _ in range(4):
        _, report = go(root, lake)
        assert "5 of the first 5" in report.stop_reason
    assert (len(lake.failure_counts()), lake.quarantined_cell_ids()) == (5, set())
    for step in steps:
        (root / f"step{step}" / "fault").unlink()
    _, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 5)


def test_what_no_node_can_run_is_seen_before_every_task_has_tried(tmp_path, lake):
    """Each task is retried once, on another node, without waiting."""
    steps = list(range(40))
    root = stub.history(tmp_path / "runs", steps, faults=dict.fromkeys(steps, "setup"))
    _, report = go(root, lake)
    assert "5 of the first 5 checkpoints failed" in report.stop_reason
    assert sum(len(stub.tries(root, step)) for step in steps) == 10
    assert lake.quarantined_cell_ids() == set()
