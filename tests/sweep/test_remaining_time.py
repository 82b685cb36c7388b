"""Estimate of the remaining time: within a factor of two from the third cell on, in simulated runs."""

import heapq
import random
from collections.abc import Iterator

import pytest

from pipeline.sweep.remaining_time import RemainingTime, format_remaining

EQUAL = [20.0] * 40
LADDER = [float(size) for size in (5, 10, 20, 40, 80) for _ in range(8)]
"""Five models of growing size, eight checkpoints each, in this order."""


def simulate(
    costs: list[float], slots: int, start_s: float, load_s: float
) -> Iterator[tuple[int, float, float, float]]:
    """Yield (cells done, seconds, estimate, truth) every 5 s of a run with noisy durations."""
    noise, now = random.Random(0), [0.0]
    remaining = RemainingTime({str(i): cost for i, cost in enumerate(costs)}, lambda: now[0])
    free = [start_s] * slots
    ends: list[tuple[float, int, float]] = []
    for i, cost in enumerate(costs):
        seconds = cost * noise.uniform(0.8, 1.2)
        end = heapq.heappop(free) + load_s + seconds
        heapq.heappush(free, end)
        ends.append((end, i, seconds))
    ends.sort()
    last, done = ends[-1][0], 0
    while now[0] < last:
        now[0] += 5.0
        while done < len(ends) and ends[done][0] <= now[0]:
            remaining.add(str(ends[done][1]), ends[done][2])
            done += 1
        estimate = remaining.estimate_s(min(slots, len(costs) - done))
        if estimate is not None:
            yield done, now[0], estimate, last - now[0]


@pytest.mark.parametrize("costs", [EQUAL, LADDER], ids=["equal", "ladder"])
@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize(("start_s", "load_s"), [(0.0, 0.0), (60.0, 0.0), (30.0, 5.0)])
def test_the_estimate_is_within_a_factor_of_two_from_the_third_cell_on(costs, slots, start_s, load_s):
    told = [(estimate, truth) for *_, estimate, truth in simulate(costs, slots, start_s, load_s)]
    assert len(told) > 10
    for estimate, truth in told:
        if truth > 1.5 * max(costs):  # near the end only the last cells of some slots run
            assert truth / 2 <= estimate <= 2 * truth


def test_there_is_none_before_the_third_cell():
    remaining = RemainingTime(dict.fromkeys("abcd", 1.0), lambda: 1.0)
    for cell in "ab":
        remaining.add(cell, 0.5)
        assert remaining.estimate_s(1) is None
    remaining.add("c", 0.5)
    assert remaining.estimate_s(1) is not None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "no estimate yet"), (42.0, "about 42 s left"), (720.0, "about 12 min left"), (9000.0, "about 2.5 h left")],
)
def test_its_unit_is_readable(seconds, text):
    assert format_remaining(seconds) == text
