"""Placement of files: the least loaded usable node, not where fetches fail, never a lost node."""

from collections import Counter

import pytest

from pipeline.spec import Resources
from pipeline.sweep.nodes import NodeTracker, RayNode

ONE_CPU = Resources(cpus=1)


def node(name: str, cpus: int, gpus: int = 0) -> RayNode:
    return {"NodeID": name, "Alive": True, "NodeManagerHostname": "host", "Resources": {"CPU": cpus, "GPU": gpus}}


def nodes(*some: RayNode) -> NodeTracker:
    return NodeTracker(lambda: list(some), ONE_CPU)


def test_a_node_of_eight_gets_eight_times_as_much_as_one_of_one():
    placed = nodes(node("head", 0), node("small", 1), node("large", 8))
    counts = Counter(placed.assign_node(f"c{index}", gpus=0) for index in range(18))
    assert counts == {"small": 2, "large": 16}


def test_what_has_left_counts_no_more():
    placed = nodes(node("a", 1), node("b", 1))
    first = placed.assign_node("c0", gpus=0)
    placed.forget_files("c0")
    assert placed.find_node("c0") == ""
    assert placed.assign_node("c1", gpus=0) == first


def test_a_node_where_fetching_fails_is_asked_last_until_it_works_again():
    """Fast failures would keep the node least loaded and attract every task."""
    placed = nodes(node("bad", 1), node("good", 1))
    for name in ("c0", "c1"):
        if placed.assign_node(name, gpus=0) == "bad":
            for _ in range(3):
                placed.record_fetch(name, well=False)
    for name in ("c0", "c1"):
        placed.forget_files(name)
    assert [placed.assign_node(f"d{index}", gpus=0) for index in range(4)] == ["good", "good", "good", "bad"]
    placed.record_fetch("d3", well=True)
    assert [placed.assign_node(f"e{index}", gpus=0) for index in range(2)] == ["bad", "bad"]


def test_a_checkpoint_goes_to_another_node_after_a_failed_fetch_however_full_that_node_is():
    placed = nodes(node("large", 8), node("small", 1))
    assert placed.assign_node("c0", gpus=0) == "large"
    placed.record_fetch("c0", well=False)
    placed.forget_files("c0")
    counts = Counter(placed.assign_node(f"c{index}", gpus=0) for index in range(1, 12))
    assert counts["small"] / 1 > counts["large"] / 8, "the small node is the fuller one"
    assert placed.assign_node("c0", gpus=0) == "small"
    placed.record_fetch("c0", well=False)
    assert placed.assign_node("c0", gpus=0) == "large", "the fetch failed on both"


def test_nodes_are_looked_at_once_a_second_and_at_once_when_one_was_lost(monkeypatch: pytest.MonkeyPatch):
    now, living = [100.0], [node("a", 1)]
    monkeypatch.setattr("pipeline.sweep.nodes.time.monotonic", lambda: now[0])
    placed = NodeTracker(lambda: list(living), ONE_CPU)
    assert placed.assign_node("c0", gpus=0) == "a"
    living[:] = [node("b", 1)]
    assert placed.assign_node("c1", gpus=0) == "a"
    placed.invalidate()
    assert placed.assign_node("c1", gpus=0) == "b"
    living[:] = []
    now[0] += 1.0
    assert placed.assign_node("c2", gpus=0) == ""


def test_gpus_must_be_on_one_node():
    placed = nodes(node("one", 8, gpus=1), node("two", 8, gpus=2))
    assert placed.assign_node("c0", gpus=2) == "two"
    assert placed.assign_node("c1", gpus=3) == ""


@pytest.mark.parametrize(
    ("taken", "shares", "room"), [(0, 1, True), (1, 1, True), (2, 1, False), (1, 2, False), (0, 9, True)]
)
def test_a_node_has_as_much_room_as_tasks_fit(taken, shares, room):
    assert nodes(node("a", 2)).has_room("a", taken, shares) is room


def test_a_node_that_has_gone_keeps_nothing_waiting():
    assert nodes(node("a", 2)).has_room("gone", 9, 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_several_nodes_on_a_host_the_one_that_can_run_tasks_is_found(order):
    some = [node("head", 0), node("worker", 2), {**node("lost", 4), "Alive": False, "Resources": {}}]
    placed = nodes(*(some[index] for index in order))
    assert (placed.find_node_of_host("host"), placed.find_node_of_host("unknown")) == ("worker", "")
