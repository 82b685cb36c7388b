"""Delete-a-group jackknife: standard error of a metric from its leave-one-group-out values."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")


def jackknife_se(without: Sequence[float | None]) -> float | None:
    """Return the jackknife standard error over G groups, sqrt((G - 1) / G * sum (x_g - mean)^2).

    It is None with fewer than two groups, or if a value is None.

    Args:
        without: x_g, the metric of the data without group g, for each group g.

    Source: Efron and Stein 1981.
    """
    values = [value for value in without if value is not None]
    n = len(values)
    if n < 2 or n < len(without):
        return None
    mean = math.fsum(values) / n
    return math.sqrt((n - 1) / n * math.fsum((value - mean) ** 2 for value in values))


def jackknife_columns(name: str, value: float | None, without: Sequence[float | None]) -> dict[str, Any]:
    """Return three columns: NAME (`value`), NAME_se (jackknife standard error) and NAME_groups (list `without`).

    The last two are None with fewer than two groups. `without` has the metric with one group left out at a time.
    """
    values = list(without) if len(without) > 1 else None
    return {name: value, f"{name}_se": jackknife_se(without), f"{name}_groups": values}


def leave_one_out(metric: Callable[[Part], float], parts: Iterable[Part | None]) -> list[float | None]:
    """Return the metric of each part, where a part is the data without one of the groups; a part of None gives None."""
    return [None if part is None else metric(part) for part in parts]
