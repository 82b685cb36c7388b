"""Input of the metrics: moments and point cloud of one layer, with intermediate results that several metrics share."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.geometry.accumulator import LayerMoments
from pipeline.geometry.cloud import PointCloud
from pipeline.geometry.neighbors import NeighborGraph, build_exact_graph, drop_near_duplicates
from pipeline.geometry.population import Population
from pipeline.recipe import Recipe

MetricValues = dict[str, Any]


RowMap = Callable[[Tensor], Tensor]
"""Map of rows `[rows, dim]` to rows of the same shape and dtype."""


class Layer:
    """Input of every metric group. `flags` collects the words that explain nulls or qualify values."""

    def __init__(
        self, moments: LayerMoments, cloud: PointCloud, recipe: Recipe, read_by_next: RowMap | None = None
    ) -> None:
        self.moments, self.cloud, self.recipe, self.read_by_next = moments, cloud, recipe, read_by_next
        self.every = Population(moments.every, moments.dtype)
        self.ordinary = Population(moments.ordinary, moments.dtype) if moments.sink_sums.count else self.every
        self.flags: set[str] = set()

    @cached_property
    def varies(self) -> bool:
        """True if the tokens differ from each other by more than rounding.

        If not, the flag `too_few_tokens` or `constant_layer` is set.
        """
        if self.every.pooled.count < 2:
            self.flags.add("too_few_tokens")
            return False
        if not self.every.is_spread(self.every.pooled):
            self.flags.add("constant_layer")
            return False
        return True

    @cached_property
    def ordinary_varies(self) -> bool:
        """True if `varies` is True and the tokens without sinks also differ from each other by more than rounding.

        If only the second does not hold, the flag `too_few_ordinary_tokens` is set.
        """
        if not self.varies:
            return False
        if not self.ordinary.is_spread(self.ordinary.pooled):
            self.flags.add("too_few_ordinary_tokens")
            return False
        return True

    @property
    def populations(self) -> dict[str, Population]:
        """Sets of tokens by column suffix: "" for all tokens, "_no_sink" for all except sinks.

        A set whose tokens do not vary is absent.
        """
        varies = {"": (self.every, self.varies), "_no_sink": (self.ordinary, self.ordinary_varies)}
        return {suffix: population for suffix, (population, is_spread) in varies.items() if is_spread}

    @cached_property
    def group_members(self) -> list[Int[Tensor, " _members"]]:
        """For each group, the indices of its points in the cloud, ascending."""
        groups = range(int(self.cloud.group_ids.max()) + 1) if len(self.cloud) else ()
        return [(self.cloud.group_ids == g).nonzero().flatten() for g in groups]

    @cached_property
    def deduplicated_graphs(self) -> list[NeighborGraph]:
        """One k-NN graph per group, of its distinct points.

        A graph has 2k neighbours per point, because GRIDE at scale k needs the distance to the 2k-th neighbour.
        """
        k, seed = 2 * self.recipe.k, self.recipe.seed
        return [build_exact_graph(self.cloud.points[members], k, seed) for members in self.group_members]

    @cached_property
    def dimension_graphs(self) -> list[NeighborGraph]:
        """One k-NN graph per group, without near-duplicates; dimensions are estimated on these graphs."""
        return [drop_near_duplicates(g, 2 * self.recipe.k, self.recipe.seed) for g in self.deduplicated_graphs]

    @cached_property
    def authors_graphs(self) -> list[NeighborGraph]:
        """k-NN graphs for `id_authors`, each of one draw of points; near-duplicates are not removed.

        A draw is `authors_points` consecutive points of the cloud, or the whole cloud if that is smaller. There are up
        to AUTHORS_DRAWS disjoint draws, as many as the cloud has points for, in two cases: the layer has one group, or
        every draw has exactly the points of a group, whose graph is then reused. Otherwise there is only the first
        draw.
        """
        size, device = self.recipe.authors_points, self.cloud.points.device
        n_draws = min(max(len(self.cloud) // size, 1), AUTHORS_DRAWS)
        ends = [(start * size, min((start + 1) * size, len(self.cloud))) for start in range(n_draws)]
        draws = [torch.arange(*limits, device=device) for limits in ends]
        shared = [self._shared_graph(draw) for draw in draws]
        several = len(self.group_members) == 1 or None not in shared
        k, seed, points = AUTHORS_NEIGHBORS, self.recipe.seed, self.cloud.points
        wanted = list(zip(draws, shared, strict=True))[: None if several else 1]
        return [graph or build_exact_graph(points[draw], k, seed) for draw, graph in wanted]

    def _shared_graph(self, draw: Int[Tensor, " draw"]) -> NeighborGraph | None:
        """Return the graph of the group that has exactly the points of a draw; None if there is no such group."""
        groups = zip(self.group_members, self.deduplicated_graphs, strict=True)
        return next((graph for group, graph in groups if torch.equal(draw, group)), None)


AUTHORS_DRAWS = 3
"""Maximum number of draws of points for `id_authors`."""
AUTHORS_NEIGHBORS = 4
"""Neighbours per point in the graphs for `id_authors`. Two are used; two are spare, because distances between centered
rows in float64 can change the order of neighbours at nearly equal distances."""
