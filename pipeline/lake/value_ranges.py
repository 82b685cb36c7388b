"""Between which bounds the value of each column can lie at all: one table, by unit, with the exceptions by name."""

import math
from typing import NamedTuple

from pipeline.columns import Column

ROUNDING = 1e-6
"""A ratio that is 1 may come out as 1 + a few roundings."""
POSITIVE = math.ulp(0.0)


class Range(NamedTuple):
    low: float
    high: float = math.inf


COUNT, SHARE, AMOUNT = Range(0), Range(-ROUNDING, 1 + ROUNDING), Range(0)
BY_UNIT: dict[str, Range] = {
    "0..1": SHARE,
    "-1..1": Range(-1 - ROUNDING, 1 + ROUNDING),
    "dims": Range(POSITIVE),
    **dict.fromkeys(("rank", "neighbours"), Range(1)),
    **dict.fromkeys(("parameters", "layers", "tokens", "contexts", "points", "steps", "bytes"), COUNT),
    **dict.fromkeys(("act", "act^2", "nats/token", "s", "MiB"), AMOUNT),
}
BY_NAME: dict[str, Range] = {
    "layer": COUNT,
    "top_dims": COUNT,
    "noise_ratio": AMOUNT,
    "mu_quantiles": Range(1),
    "attempt": Range(1),
    "algorithm": Range(1),
    "schema_version": Range(1),
}
FREE = {"seed", "alpha"}
"""Numbers that may be anything finite."""


def range_of(column: Column) -> Range | None:
    """The bounds of a column, both included; None for words, times and what may be any number."""
    if column.name.endswith("_se"):
        return AMOUNT
    return BY_NAME.get(column.name) or BY_UNIT.get(column.unit)
