"""When the first checkpoints all end alike, the run stops and condemns nobody."""

from tests.sweep import stub
from tests.sweep.runs import go


def test_the_circuit_breaker_stops_a_sweep_whose_first_tasks_all_fail_alike(tmp_path, lake):
    steps = list(range(20))
    root = stub.history(tmp_path / "runs", steps, faults=dict.fromkeys(steps, "error"))
    _, report = go(root, lake)
    assert report.exit_code == 1
    assert "defect" in report.stopped
    assert sum(len(stub.tries(root, step)) for step in steps) == 5
    assert lake.quarantined() == set()
