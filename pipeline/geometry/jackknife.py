"""Delete-a-group jackknife: standard error of a metric from its leave-one-group-out values."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")


def jackknife_se(without: Sequence[float | None]) -> float | None:
    """Return sqrt((G - 1) / G * sum (x_g - mean)^2); None with fewer than two groups or a missing value.

    Source: Efron and Stein 1981.
    """
    values = [value for value in without if value is not None]
    n = len(values)
    if n < 2 or n < len(without):
        return None
    mean = math.fsum(values) / n
    return math.sqrt((n - 1) / n * math.fsum((value - mean) ** 2 for value in values))


def jackknife_columns(name: str, value: float | None, without: Sequence[float | None]) -> dict[str, Any]:
    """Return the columns NAME, NAME_se and NAME_groups; the last two are None with fewer than two groups."""
    values = list(without) if len(without) > 1 else None
    return {name: value, f"{name}_se": jackknife_se(without), f"{name}_groups": values}


def leave_one_out(metric: Callable[[Part], float], parts: Iterable[Part | None]) -> list[float | None]:
    """Return the metric of each part, where a part is the data without one group; None for a part that is None."""
    return [None if part is None else metric(part) for part in parts]
