"""Between which bounds the value of each column can lie at all: one table, by unit, with the exceptions by name."""

import math
from typing import NamedTuple

from pipeline.columns import Column

ROUNDING = 1e-6
"""A ratio that is 1 may come out as 1 + a few roundings."""
POSITIVE = math.ulp(0.0)


class ValueRange(NamedTuple):
    low: float
    high: float = math.inf


COUNT, SHARE, AMOUNT = ValueRange(0), ValueRange(-ROUNDING, 1 + ROUNDING), ValueRange(0)
RANGE_BY_UNIT: dict[str, ValueRange] = {
    "0..1": SHARE,
    "-1..1": ValueRange(-1 - ROUNDING, 1 + ROUNDING),
    "dims": ValueRange(POSITIVE),
    **dict.fromkeys(("rank", "neighbours"), ValueRange(1)),
    **dict.fromkeys(("parameters", "layers", "tokens", "contexts", "points", "steps", "bytes"), COUNT),
    **dict.fromkeys(("act", "act^2", "nats/token", "s", "MiB"), AMOUNT),
}
RANGE_BY_COLUMN: dict[str, ValueRange] = {
    "layer": COUNT,
    "top_dims": COUNT,
    "noise_ratio": AMOUNT,
    "mu_quantiles": ValueRange(1),
    "attempt": ValueRange(1),
    "algorithm": ValueRange(1),
    "schema_version": ValueRange(1),
}
UNBOUNDED_COLUMNS = {"seed", "alpha"}
"""Numbers that may be anything finite."""


def column_range(column: Column) -> ValueRange | None:
    """The bounds of a column, both included; None for words, times and what may be any number."""
    if column.name.endswith("_se"):
        return AMOUNT
    return RANGE_BY_COLUMN.get(column.name) or RANGE_BY_UNIT.get(column.unit)
