"""P-values of limits on effects, computed from intervals, and Holm's correction over all claims and histories."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from pipeline.analysis.claim_registry import Limit

LEVEL = 0.95
"""Coverage of the intervals of findings."""


def invert_interval(row: Mapping[str, Any], limit: Limit, groups: int | None) -> float | None:
    """Return the two-sided p of a limit: 1 minus the coverage at which the interval would touch the bound.

    The half width on the side of the bound is assumed to grow with the coverage like that of Student's t with
    groups - 1 degrees of freedom. Thus p is 5 % exactly if the interval of the row touches the bound, and 1 if the
    value is not on the stated side of the bound. The result is None if the error is unknown: without an interval, with
    fewer than two groups, or if the interval has no width on the side of the bound.

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
    """Return the first column of these limits whose value equals a limit of its interval; None if there is none."""
    for name in dict.fromkeys(limit.column for limit in limits):
        ends = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
        if None not in ends and ends[0] in ends[1:]:
            return name
    return None


def combine_limits(row: Mapping[str, Any], limits: Sequence[Limit], groups: int | None) -> float | None:
    """Return the p of several limits that must all hold: the largest of their p; None if one of them is unknown.

    Source: intersection-union test (Berger 1982).
    """
    each = [invert_interval(row, limit, groups) for limit in limits]
    known = [p for p in each if p is not None]
    return max(known) if known and len(known) == len(each) else None


def combine_any(
    row: Mapping[str, Any], limits: Sequence[Limit], groups: int | None
) -> tuple[float | None, Limit | None]:
    """Return the p of several limits of which one is enough, and the limit with the smallest p.

    This p is the smallest p times the number of limits (Bonferroni), at most 1. Both are None if no p is known.
    """
    each = [(invert_interval(row, limit, groups), limit) for limit in limits]
    known = [(p, limit) for p, limit in each if p is not None]
    p, limit = min(known, key=lambda pair: pair[0], default=(None, None))
    return (None if p is None else min(1.0, p * len(limits))), limit


def correct_holm(p: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for the number of tests by the method of Holm (1979).

    If all tests with an adjusted p under 5 % are rejected, at most 5 % of such sets of tests have any wrong rejection.
    This is valid under any dependence of the tests, such as that of claims about one history.
    """
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(values) else steps
    return adjusted.tolist()
