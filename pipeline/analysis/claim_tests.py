"""P of a limit on an effect from its interval, and Holm's correction over all claims and histories."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from pipeline.analysis.claim_registry import Limit

LEVEL = 0.95
"""Coverage of the intervals of findings."""


def invert_interval(row: Mapping[str, Any], limit: Limit, groups: int | None) -> float | None:
    """Two-sided p of a limit: 1 minus the coverage of the interval that touches the bound.

    The half width towards the bound is scaled with coverage like that of Student's t with groups - 1 degrees of
    freedom, so p is 5 % exactly if the 95 % interval touches the bound. None without an interval, with one group, or
    if the interval has no width towards the bound, so that its error is unknown.

    Bias: conservative for simultaneous intervals: their errors are pooled over points, so their half width grows more
        slowly beyond 95 % than Student's t with groups - 1 degrees of freedom. Approximate for unpaired differences
        (MOVER), since both sides of the interval are scaled alike.
    """
    value, low, high = (row[f"{limit.column}{end}"] for end in ("", "_low", "_high"))
    bound = limit.bound_of(row)
    if bound is None or None in (value, low, high) or groups is None or groups < 2:
        return None
    sides: dict[str, float] = {">": value - bound, "<": bound - value, "!=": abs(value - bound)}
    away = sides[limit.sign]
    half = value - low if value > bound else high - value
    if half <= 0:
        return None
    if away <= 0:
        return 1.0
    return float(2 * stdtr(groups - 1, -stdtrit(groups - 1, (1 + LEVEL) / 2) * away / half))


def name_without_width(row: Mapping[str, Any], limits: Sequence[Limit]) -> str | None:
    """Return the first column of these limits whose interval has no width on one side; None if there is none."""
    for name in dict.fromkeys(limit.column for limit in limits):
        ends = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
        if None not in ends and ends[0] in ends[1:]:
            return name
    return None


def combine_limits(row: Mapping[str, Any], limits: Sequence[Limit], groups: int | None) -> float | None:
    """P of several limits that must all hold: the largest (intersection-union test, Berger 1982); None if unknown."""
    each = [invert_interval(row, limit, groups) for limit in limits]
    known = [p for p in each if p is not None]
    return max(known) if known and len(known) == len(each) else None


def combine_any(
    row: Mapping[str, Any], limits: Sequence[Limit], groups: int | None
) -> tuple[float | None, Limit | None]:
    """P that one of several limits holds (smallest p times number of limits, Bonferroni), and the limit with this p."""
    each = [(invert_interval(row, limit, groups), limit) for limit in limits]
    known = [(p, limit) for p, limit in each if p is not None]
    p, limit = min(known, key=lambda pair: pair[0], default=(None, None))
    return (None if p is None else min(1.0, p * len(limits))), limit


def correct_holm(p: Sequence[float]) -> list[float]:
    """Adjust p for the number of tests: at most 5 % of families have any wrong rejection (Holm 1979).

    Valid under any dependence of the tests, such as that of claims about one history.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(values) else steps
    return adjusted.tolist()
