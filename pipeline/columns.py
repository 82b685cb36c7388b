"""The lake's columns as data: name, type, group, unit and meaning; the contract of every row."""

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

MU_PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Where the column `mu_quantiles` takes its quantiles."""


class Column(NamedTuple):
    name: str
    type: str
    """Arrow type, or list<TYPE>."""
    group: str
    unit: str
    meaning: str


@cache
def source() -> bytes:
    """The table itself, as CSV."""
    return (files("pipeline") / "columns.csv").read_bytes()


@cache
def columns() -> tuple[Column, ...]:
    """Every column in file order."""
    return tuple(Column(**row) for row in csv.DictReader(source().decode().splitlines()))


@cache
def names(*groups: str) -> tuple[str, ...]:
    """Names of the columns of the groups given, or of all."""
    return tuple(c.name for c in columns() if not groups or c.group in groups)
