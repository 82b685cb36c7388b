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
"""Number of points per group below which the flag `few_points` is set."""

Radii = Float64[Tensor, "_points _k"]
"""Neighbour distances of one group; the number of points and neighbours may differ between groups."""


def usable_group_radii(layer: Layer) -> list[Radii | None]:
    """Return the neighbour distances, float64, of each group of the layer in order; None for an unusable group.

    A group is unusable if it has fewer than 100 points (flag `group_too_small`, or `too_few_points` if no group has
    100), or if the distances to the two nearest neighbours are equal at every point (flag `tied_distances`). A group
    with fewer than 500 points is used, but sets the flag `few_points`.
    """
    radii = usable_radii(layer, layer.dimension_graphs, none="too_few_points", some="group_too_small")
    if any(len(r) < FEW_POINTS for r in radii if r is not None):
        layer.flags.add("few_points")
    return radii


def usable_radii(layer: Layer, graphs: Sequence[NeighborGraph], none: str, some: str) -> list[Radii | None]:
    """For each graph, return its neighbour distances, or None if no dimension can be estimated from them.

    They are None if the graph has fewer than 100 resolved points, or if the distances to the two nearest neighbours are
    equal at every point (flag `tied_distances`).

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
    """Return three columns: NAME (mean of the estimates of all groups), NAME_se (its standard error) and NAME_groups.

    NAME_groups is the list of the estimates of each group of contexts, with None for a group without an estimate. The
    whole column is None if all items are None.
    """
    mean, se, groups = mean_over_groups(layer, [None if r is None else estimator(r) for r in radii])
    return {name: mean, f"{name}_se": se, f"{name}_groups": groups}


def mean_over_groups(
    layer: Layer, values: Sequence[float | None]
) -> tuple[float | None, float | None, list[float | None] | None]:
    """Return (mean over groups, its standard error sd / sqrt(groups), list of the estimates of each group).

    The standard error is None with one estimate, and all three are None without any. An estimate that is not finite,
    because all distances of the group are tied, becomes None (flag `tied_distances`).

    Args:
        values: estimate of each group, None for a group without one.
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
