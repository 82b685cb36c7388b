"""The metrics, one module per group; a module is found by being here.

It states COLUMNS (of columns.csv), `measure(layer)`, which returns exactly these, and SECONDS, the column that its wall
time is added to. A column is documented by the function of its name, or of the longest name that it begins with; the
docstring's last lines are `Source:` (paper or definition) and `Bias:` (what is known of it).
"""

import pkgutil
from functools import cache
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

from pipeline.geometry.layer import Layer, MetricValues


@runtime_checkable
class MetricGroup(Protocol):
    """What a module of this package offers."""

    __name__: str
    COLUMNS: tuple[str, ...]
    TIMING_COLUMN: str

    def measure(self, layer: Layer) -> MetricValues: ...


@cache
def metric_groups() -> tuple[MetricGroup, ...]:
    """Every metric group, in order of module names."""
    found = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(cast(MetricGroup, module) for module in found)
