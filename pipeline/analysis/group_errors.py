"""Errors of metrics as deviations per group of contexts, so that rows that share their contexts have paired errors.

A value has one deviation per group of contexts. They are scaled so that the sum of their squares is the squared
standard error of the value. The deviations of a difference of two values are the differences of their deviations, and
those of a mean are the means. Every comparison is thus a one-sample test over groups, by Student's t with groups - 1
degrees of freedom.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import stdtrit

from pipeline.analysis.simultaneous_test import Floats
from pipeline.columns import group_statistic

ERROR_COLUMNS = ("value", "se", "df", "deviations")
GRIDE_SCALES = {"id_gride_4": 2, "id_gride_16": 4}
"""Index of GRIDE at k = 4 and at k = 16 in the list columns `id_gride` and `id_gride_se`."""


def select_value(name: str) -> pl.Expr:
    """Return the expression of a metric: its column or, for GRIDE at one scale, an element of a list column."""
    return pl.col("id_gride").list.get(GRIDE_SCALES[name], null_on_oob=True) if name in GRIDE_SCALES else pl.col(name)


def _select_se(name: str) -> pl.Expr:
    at = GRIDE_SCALES.get(name)
    return pl.col(f"{name}_se") if at is None else pl.col("id_gride_se").list.get(at, null_on_oob=True)


def add_errors(frame: pl.DataFrame, name: str, log: bool = False) -> pl.DataFrame:
    """Add the columns `value`, `se` (standard error), `df` (degrees of freedom) and `deviations` (list) of a metric.

    `deviations` is null for rows without values per group, such as those of old lakes; `se` and `df` then come from the
    column of the standard error and the recipe's number of groups. `df` is null where there is no error.

    Args:
        name: name of the metric.
        log: if true, all four columns are those of the logarithm of the metric.
    """
    value, groups = select_value(name), pl.col(f"{name}_groups")
    if log:
        value = pl.when(value > 0).then(value)
    complete = (groups.list.len() >= 2) & (groups.list.drop_nulls().list.len() == groups.list.len())
    deviations = pl.when(complete).then(groups).list.eval(_deviation(group_statistic(_column(name)), log))
    frame = frame.with_columns(value=value, deviations=deviations)
    se, known = _select_se(name), pl.col("deviations").is_not_null()
    alone = (pl.col("groups") > 1).fill_null(False) & se.is_not_null()
    frame = frame.with_columns(
        se=pl.when(known).then(_root_of_squares()).when(alone).then(se / value if log else se),
        df=pl.when(known).then(groups.list.len().cast(pl.Int64) - 1).when(alone).then(pl.col("groups") - 1),
    )
    return frame.with_columns(value=pl.col("value").log()) if log else frame


def _column(name: str) -> str:
    return "id_gride" if name in GRIDE_SCALES else name


def _deviation(statistic: str, log: bool) -> pl.Expr:
    each = pl.element().log() if log else pl.element()
    n = pl.element().len()
    around = each - each.mean()
    return around / (n * (n - 1)).sqrt() if statistic == "estimate" else -around * ((n - 1) / n).sqrt()


def _root_of_squares() -> pl.Expr:
    return pl.col("deviations").list.eval(pl.element() ** 2).list.sum().sqrt()


def average_points(frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Average rows that share their contexts; return one row per value of `by`, with ERROR_COLUMNS and `rows`.

    `rows` is the number of averaged rows. The error comes from the averaged deviations. Without values per group, it is
    the mean of the errors of the rows, which is an upper limit. An average has no value if one of its rows has no
    value, and no error if one of them has no error.
    """
    gathered = frame.group_by(by, maintain_order=True).agg(
        pl.when(pl.col("value").null_count() == 0).then(pl.col("value").mean()),
        pl.when(pl.col("se").null_count() == 0).then(pl.col("se").mean()),
        pl.when(pl.col("df").null_count() == 0).then(pl.col("df").min()),
        pl.col("deviations"),
        rows=pl.len(),
    )
    found = gathered.with_columns(deviations=_average_lists(gathered["deviations"]))
    return found.with_columns(se=pl.when(pl.col("deviations").is_null()).then("se").otherwise(_root_of_squares()))


def _average_lists(lists: pl.Series) -> pl.Series:
    """Return the element-wise mean of the lists of each element; null if a list is null or their lengths differ.

    `lists` has one list of deviation lists per average.
    """
    rows = lists.to_frame("list").with_row_index("at").explode("list").with_columns(groups=pl.col("list").list.len())
    counts = pl.col("groups").n_unique().over("at") + pl.col("groups").null_count().over("at")
    means: list[list[float] | None] = [None] * len(lists)
    for part in rows.filter(counts == 1).partition_by("groups", maintain_order=True):
        values = part["list"].explode().to_numpy().reshape(part.height, -1)
        at, first, size = np.unique(part["at"].to_numpy(), return_index=True, return_counts=True)
        for index, mean in zip(at, np.add.reduceat(values, first) / size[:, None], strict=True):
            means[index] = mean.tolist()
    return pl.Series(means, dtype=pl.List(pl.Float64))


class Estimate(NamedTuple):
    """A value with the limits of its interval, of 95 % unless stated otherwise; the limits are None without errors."""

    value: float
    low: float | None = None
    high: float | None = None


def paired_half_width(deviations: Sequence[float] | Floats, level: float = 0.95) -> float:
    """Return the half width of the Student's t interval of a value, from its deviations, one per group."""
    squares = float((np.asarray(deviations, float) ** 2).sum())
    return float(stdtrit(len(deviations) - 1, (1 + level) / 2)) * squares**0.5


def make_interval(value: float, se: float | None, df: int | None, level: float = 0.95) -> Estimate:
    """Return a value with its interval by Student's t; the limits are None if there is no error."""
    if se is None or not df:
        return Estimate(value)
    half = float(stdtrit(df, (1 + level) / 2)) * se
    return Estimate(value, value - half, value + half)


def shares_groups(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return True if two rows with ERROR_COLUMNS and `contexts_digest` have values of the same groups of contexts."""
    a, b = first["deviations"], second["deviations"]
    digests = first["contexts_digest"], second["contexts_digest"]
    return a is not None and b is not None and len(a) == len(b) and None not in digests and digests[0] == digests[1]


def subtract_rows(
    minuend: Mapping[str, Any], subtrahend: Mapping[str, Any], level: float = 0.95
) -> tuple[Estimate, bool]:
    """Return the difference of two rows' values with its interval, and True if the interval is paired.

    Both rows have ERROR_COLUMNS and `contexts_digest`. The interval is paired if they have values of the same groups of
    contexts. Otherwise the two errors are treated as independent, with the smaller one of their degrees of freedom,
    which is conservative.
    """
    value = minuend["value"] - subtrahend["value"]
    if shares_groups(minuend, subtrahend):
        half = paired_half_width(np.subtract(minuend["deviations"], subtrahend["deviations"]), level)
        return Estimate(value, value - half, value + half), True
    if None in (minuend["se"], subtrahend["se"], minuend["df"], subtrahend["df"]):
        return Estimate(value), False
    se = float(np.hypot(minuend["se"], subtrahend["se"]))
    return make_interval(value, se, min(minuend["df"], subtrahend["df"]), level), False


def subtract_intervals(minuend: str, subtrahend: str, name: str) -> list[pl.Expr]:
    """Return the expressions of the difference of two independent estimates and of the limits of its interval.

    Source: MOVER (Zou & Donner 2008), which keeps the coverage of the two intervals.

    Args:
        minuend, subtrahend: columns of the estimates; their limits are in the columns with the endings `_low` and
            `_high`.
        name: column of the difference; its limits get the same endings.
    """
    first, second = ([pl.col(f"{each}{end}") for end in ("", "_low", "_high")] for each in (minuend, subtrahend))
    difference = first[0] - second[0]
    below = ((first[0] - first[1]) ** 2 + (second[2] - second[0]) ** 2).sqrt()
    above = ((first[2] - first[0]) ** 2 + (second[0] - second[1]) ** 2).sqrt()
    limits = {"": difference, "_low": difference - below, "_high": difference + above}
    return [limit.alias(f"{name}{end}") for end, limit in limits.items()]


def center_and_scale(values: Floats) -> tuple[Floats, float]:
    """Return the values minus their mean, scaled to Euclidean length 1, and the length before scaling.

    The scalar product of two such series is their Pearson correlation. A constant series becomes 0.
    """
    around = values - values.mean()
    size = float(np.sqrt((around**2).sum()))
    return (around / size if size > 0 else around), size
