"""Columns and flags of the lake as data: names, types, units, meanings, value ranges, and the nulls a flag explains."""

import csv
import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

METRIC_GROUPS = ("counts", "anisotropy", "spectrum", "norms", "dimension", "linearity", "loss")
"""Groups of columns that are metrics."""
MU_PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Probabilities of the quantiles in the column `mu_quantiles`."""


class Column(NamedTuple):
    name: str
    type: str
    """Arrow type, or list<TYPE>."""
    group: str
    unit: str
    meaning: str


class Flag(NamedTuple):
    meaning: str
    groups: tuple[str, ...] = ()
    """Groups of columns whose nulls the flag explains; empty for a flag that only qualifies numbers."""
    columns: tuple[str, ...] = ()
    """Further columns whose nulls the flag explains."""


class ValueRange(NamedTuple):
    """Inclusive bounds of a column's values."""

    low: float
    high: float = math.inf


_ROUNDING = 1e-6
"""Amount by which a ratio may exceed its bounds because of rounding."""
_NON_NEGATIVE, _SHARE = ValueRange(0), ValueRange(-_ROUNDING, 1 + _ROUNDING)
RANGE_BY_UNIT: dict[str, ValueRange] = {
    "0..1": _SHARE,
    "-1..1": ValueRange(-1 - _ROUNDING, 1 + _ROUNDING),
    "dims": ValueRange(math.ulp(0.0)),
    **dict.fromkeys(("rank", "neighbours"), ValueRange(1)),
    **dict.fromkeys(("parameters", "layers", "tokens", "contexts", "points", "steps", "bytes"), _NON_NEGATIVE),
    **dict.fromkeys(("act", "act^2", "nats/token", "s", "MiB"), _NON_NEGATIVE),
}
RANGE_BY_COLUMN: dict[str, ValueRange] = {
    **dict.fromkeys(("layer", "top_dims", "noise_ratio"), _NON_NEGATIVE),
    **dict.fromkeys(("mu_quantiles", "attempt", "algorithm", "schema_version"), ValueRange(1)),
}
UNBOUNDED_COLUMNS = {
    *("seed", "alpha", "alpha_no_sink", "alpha_groups", "alpha_no_sink_groups"),
    *("linearity_groups", "linearity_no_sink_groups"),
}
"""Numeric columns that may contain any finite value; leave-one-out values of an R^2 may be negative."""


@cache
def read_csv_bytes() -> bytes:
    """Return the bytes of columns.csv."""
    return (files("pipeline") / "columns.csv").read_bytes()


@cache
def all_columns() -> tuple[Column, ...]:
    """Return every column in the order of columns.csv."""
    return tuple(Column(**row) for row in csv.DictReader(read_csv_bytes().decode().splitlines()))


@cache
def column_names(*groups: str) -> tuple[str, ...]:
    """Return the column names of the given groups; without groups, return all column names."""
    return tuple(c.name for c in all_columns() if not groups or c.group in groups)


def column_range(column: Column) -> ValueRange | None:
    """Return the inclusive bounds of a column's values; None for text, timestamps and UNBOUNDED_COLUMNS."""
    if column.name in UNBOUNDED_COLUMNS:
        return None
    if column.name.endswith("_se"):
        return _NON_NEGATIVE
    return RANGE_BY_COLUMN.get(column.name) or RANGE_BY_UNIT.get(column.unit)


def _read_flags() -> dict[str, Flag]:
    rows = csv.DictReader((files("pipeline") / "flags.csv").read_text().splitlines())
    return {r["word"]: Flag(r["meaning"], tuple(r["groups"].split()), tuple(r["columns"].split())) for r in rows}


FLAGS = _read_flags()
"""Flag by word. The column `flags` contains such words, some of them followed by a colon and details."""


def explained_columns(flags: Iterable[str]) -> frozenset[str]:
    """Return the names of all columns whose nulls at least one of the given flags explains."""
    known = [FLAGS[word] for flag in flags if (word := flag.partition(":")[0]) in FLAGS]
    groups = {group for flag in known for group in flag.groups}
    return frozenset(column for flag in known for column in flag.columns) | {
        column.name for column in all_columns() if column.group in groups
    }


def is_null_by_definition(name: str, depth: float) -> bool:
    """Return True if a null in the metric `name` at this relative depth needs no flag that explains it.

    Standard errors and values per group are null if there are fewer than two groups of contexts. Columns of the
    surrogate are null if the recipe leaves it out. Linearity is null at the last layer (depth 1), because it relates a
    layer to the next one.
    """
    needs_next_layer = name in column_names("linearity") or name.endswith("_normed")
    return name.endswith(("_se", "_gaussian", "_groups")) or (needs_next_layer and depth == 1)


def group_statistic(name: str) -> str:
    """Return the kind of the values that the column `NAME_groups` lists for the metric `name`.

    - `estimate`: the estimate from each of G groups alone. The standard error of their mean is sd / sqrt(G).
    - `leave_one_out`: the estimates with one group left out at a time (jackknife). The standard error is
      sqrt((G - 1) / G * sum of squared deviations).

    If two rows share their contexts, both formulas also hold for the differences between their lists, group by group.
    """
    group = next(column.group for column in all_columns() if column.name == name)
    return "estimate" if group in ("dimension", "loss") else "leave_one_out"
