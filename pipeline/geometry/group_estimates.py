"""Neighbour distances of sufficiently large groups, and the mean of an estimate over groups."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.layer import Layer
from pipeline.geometry.neighbors import NeighborGraph

MIN_POINTS = 100
"""Minimum number of points per group for a dimension estimate; with fewer its standard deviation would exceed 10 %."""
FEW_POINTS = 500

Radii = Float64[Tensor, "_points _k"]
"""Neighbour distances of one group; the number of points and neighbours may differ between groups."""


def usable_group_radii(layer: Layer) -> list[Radii | None]:
    """Return the neighbour distances, float64, of each group of the layer in order; None for an unusable group.

    A group is unusable if it has fewer than 100 points (flag `group_too_small`, or `too_few_points` if no group has
    100), or r1 = r2 at every point (`tied_distances`). A group with fewer than 500 points is used (flag `few_points`).
    """
    radii = usable_radii(layer, layer.dimension_graphs, none="too_few_points", some="group_too_small")
    if any(len(r) < FEW_POINTS for r in radii if r is not None):
        layer.flags.add("few_points")
    return radii


def usable_radii(layer: Layer, graphs: Sequence[NeighborGraph], none: str, some: str) -> list[Radii | None]:
    """Return the distances of each graph with 100 or more points and untied distances; None for all other graphs.

    Args:
        none: flag to set if every graph has fewer than 100 points.
        some: flag to set if only some graphs have fewer than 100 points.
    """
    enough = [graph.radii if len(graph.radii) >= MIN_POINTS else None for graph in graphs]
    if all(radii is None for radii in enough):
        layer.flags.add(none)
    elif any(radii is None for radii in enough):
        layer.flags.add(some)
    usable = [radii if radii is not None and bool((radii[:, 1] > radii[:, 0]).any()) else None for radii in enough]
    if sum(radii is not None for radii in usable) < sum(radii is not None for radii in enough):
        layer.flags.add("tied_distances")
    return usable


def estimate_columns(
    layer: Layer, name: str, radii: Sequence[Radii | None], estimator: Callable[[Radii], float]
) -> dict[str, Any]:
    """Return the columns NAME (mean over groups), NAME_se (its standard error) and NAME_groups of an estimator.

    NAME_groups has one item per group of contexts, None for a group without an estimate. The column is None if all
    items are None.
    """
    mean, se, groups = mean_over_groups(layer, [None if r is None else estimator(r) for r in radii])
    return {name: mean, f"{name}_se": se, f"{name}_groups": groups}


def mean_over_groups(
    layer: Layer, values: Sequence[float | None]
) -> tuple[float | None, float | None, list[float | None] | None]:
    """Return (mean over groups, its standard error sd / sqrt(groups), values); each is None without an estimate.

    The error is None with one group. The estimate of a group is not finite if all its distances are tied; such groups
    are left out (flag `tied_distances`).
    """
    groups = [value if value is not None and math.isfinite(value) else None for value in values]
    finite = [value for value in groups if value is not None]
    if len(finite) < sum(value is not None for value in values):
        layer.flags.add("tied_distances")
    if not finite:
        return None, None, None
    n, mean = len(finite), sum(finite) / len(finite)
    se = math.sqrt(sum((v - mean) ** 2 for v in finite) / (n - 1) / n) if n > 1 else None
    return mean, se, groups
