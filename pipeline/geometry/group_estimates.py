"""Neighbour distances of the groups that have a dimension, and the mean of an estimate over them."""

import math

from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.layer import Layer

MIN_POINTS = 100
"""Below this a group has no dimension: one standard deviation would be 10 % or more."""
FEW_POINTS = 500

Radii = Float64[Tensor, "_points _k"]
"""Neighbour distances of one group; groups may differ in points, and so in neighbours."""


def usable_group_radii(layer: Layer) -> list[Radii]:
    """Of each group that can be measured.

    Groups with fewer than 100 points, or with r1 = r2 at every point, are left out (flags `group_too_small`, or
    `too_few_points` where no group has 100, and `tied_distances`); those with fewer than 500 count (`few_points`).
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
    """Mean of the groups' values and its standard error, sd / sqrt(groups), null with one group.

    An estimate is not finite where every distance that it uses is tied; such groups are left out (`tied_distances`).
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < len(values):
        layer.flags.add("tied_distances")
    if not finite:
        return None, None
    n, mean = len(finite), sum(finite) / len(finite)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in finite) / (n - 1) / n) if n > 1 else None
