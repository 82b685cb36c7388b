"""Metrics, one module per group; every module in this package is registered automatically.

A module defines COLUMNS (names in columns.csv), `measure(layer)`, which returns exactly these columns, and
TIMING_COLUMN, the column to which its wall time is added. A column is documented by the function with its name or with
its longest prefix; the last lines of that docstring are `Source:` (paper or definition) and `Bias:` (known bias).
"""

import pkgutil
from functools import cache
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

from pipeline.geometry.layer import Layer, MetricValues


@runtime_checkable
class MetricGroup(Protocol):
    """Interface of a module of this package."""

    __name__: str
    COLUMNS: tuple[str, ...]
    TIMING_COLUMN: str

    def measure(self, layer: Layer) -> MetricValues: ...


@cache
def metric_groups() -> tuple[MetricGroup, ...]:
    """Return all metric groups, ordered by module name."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(cast(MetricGroup, module) for module in modules)
