"""Neighbour distances of the groups that are large enough, and the mean of an estimate over groups."""

import math

from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.layer import Layer

MIN_POINTS = 100
"""Minimum points of a group for a dimension estimate; with fewer the standard deviation would reach 10 %."""
FEW_POINTS = 500

Radii = Float64[Tensor, "_points _k"]
"""Neighbour distances of one group; the number of points and neighbours may differ between groups."""


def usable_group_radii(layer: Layer) -> list[Radii]:
    """Return the neighbour distances of every group that can be measured, float64.

    Groups with fewer than 100 points are left out (flag `group_too_small`, or `too_few_points` if no group has 100),
    as are groups with r1 = r2 at every point (`tied_distances`). Groups with fewer than 500 count (`few_points`).
    """
    enough = [g.radii for g in layer.dimension_graphs if len(g.radii) >= MIN_POINTS]
    if not enough:
        layer.flags.add("too_few_points")
    elif len(enough) < len(layer.dimension_graphs):
        layer.flags.add("group_too_small")
    if any(len(r) < FEW_POINTS for r in enough):
        layer.flags.add("few_points")
    distinct = [r for r in enough if bool((r[:, 1] > r[:, 0]).any())]
    if len(distinct) < len(enough):
        layer.flags.add("tied_distances")
    return distinct


def mean_over_groups(layer: Layer, values: list[float]) -> tuple[float, float | None] | tuple[None, None]:
    """Return the mean over groups and its standard error, sd / sqrt(groups); the error is None with one group.

    An estimate is not finite if all its distances are tied; such groups are left out (flag `tied_distances`).
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < len(values):
        layer.flags.add("tied_distances")
    if not finite:
        return None, None
    n, mean = len(finite), sum(finite) / len(finite)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in finite) / (n - 1) / n) if n > 1 else None
