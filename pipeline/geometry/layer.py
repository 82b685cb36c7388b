"""Input of the metrics: moments and point cloud of one layer, with cached intermediate results."""

from functools import cached_property

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from pipeline.geometry.accumulator import LayerMoments
from pipeline.geometry.cloud import PointCloud
from pipeline.geometry.eigen import EigenDecomposition, eigendecompose
from pipeline.geometry.moments import Moments
from pipeline.geometry.neighbors import NeighborGraph, build_exact_graph, drop_near_duplicates
from pipeline.geometry.precision import UNIT_ROUNDOFF, product_dtype
from pipeline.recipe import Recipe

MetricValue = float | int | list[float] | list[int] | None
MetricValues = dict[str, MetricValue]


class Layer:
    """Input of every metric group; `flags` collects the reasons for nulls and the caveats on values."""

    def __init__(self, moments: LayerMoments, cloud: PointCloud, recipe: Recipe) -> None:
        self.moments, self.cloud, self.recipe = moments, cloud, recipe
        self.flags: set[str] = set()

    @cached_property
    def pooled_moments(self) -> Moments:
        """Moments of the tokens of all groups."""
        return self.moments.pooled_moments

    @cached_property
    def varies(self) -> bool:
        """True if tokens differ by more than the rounding of a float64 mean; otherwise sets a flag."""
        if self.pooled_moments.count < 2:
            self.flags.add("too_few_tokens")
            return False
        if not self.is_spread(self.pooled_moments):
            self.flags.add("constant_layer")
            return False
        return True

    def is_spread(self, part: Moments) -> bool:
        """Return True if `part`, moments of a subset of the tokens, has two or more tokens that differ beyond rounding.

        The bound covers rounding of the mean and cancellation in the variance, which is a difference of sums about a
        shift that may be far away: constant rows leave up to 2^-45 of their mean |x - shift|^2 at any dim (20,000
        rows, float64 products; 2^-15 in float32). Spreads below 1e-6 (float32: 8e-3) of the distance to the shift
        are indistinguishable from rounding.
        """
        if part.count < 2:
            return False
        cancellation = 2.0**-40 if product_dtype(part.shifted_sum.device) == torch.float64 else 2.0**-14
        rounding = 2.0**-96 * float(self.second_moment.trace())
        rounding += cancellation * float(part.scatter.trace()) / part.count
        return float(part.covariance().trace()) > rounding

    def eigenvalue_floor(self, largest: float) -> float:
        """Return the noise floor of a spectrum whose largest eigenvalue is `largest`.

        The floor is the larger of `dim * 2^-52 * largest` (resolution of a float64 decomposition; `2^-20 * largest`
        with float32 products) and `unit^2 * median_j E[x_j^2] / 3` (variance of rounding activations to their dtype).
        """
        dim, device = len(self.covariance), self.covariance.device
        resolution = dim * 2.0**-52 if product_dtype(device) == torch.float64 else 2.0**-20
        rounding = UNIT_ROUNDOFF[self.moments.dtype] ** 2 * float(self.second_moment.diagonal().median()) / 3
        return max(resolution * largest, rounding)

    @cached_property
    def covariance(self) -> Float64[Tensor, "dim dim"]:
        return self.pooled_moments.covariance()

    @cached_property
    def second_moment(self) -> Float64[Tensor, "dim dim"]:
        return self.pooled_moments.second_moment()

    @cached_property
    def covariance_eigen(self) -> EigenDecomposition:
        """Eigenvalues of the covariance; with eigenvectors if a linear map to a next layer is fitted."""
        return eigendecompose(self.covariance, vectors=self.moments.next_layer is not None)

    @cached_property
    def second_moment_eigen(self) -> EigenDecomposition:
        """Eigenvalues of the uncentered second moment."""
        return eigendecompose(self.second_moment)

    @cached_property
    def group_members(self) -> list[Int[Tensor, " _members"]]:
        """Indices of each group's points in the cloud."""
        groups = range(int(self.cloud.group_ids.max()) + 1) if len(self.cloud) else ()
        return [(self.cloud.group_ids == g).nonzero().flatten() for g in groups]

    @cached_property
    def deduplicated_graphs(self) -> list[NeighborGraph]:
        """k-NN graph of each group's distinct points, with 2k neighbours because GRIDE at scale k needs the 2k-th."""
        k, seed = 2 * self.recipe.k, self.recipe.seed
        return [build_exact_graph(self.cloud.points[members], k, seed) for members in self.group_members]

    @cached_property
    def dimension_graphs(self) -> list[NeighborGraph]:
        """k-NN graph of each group without near-duplicates, on which the dimension is measured."""
        return [drop_near_duplicates(g, 2 * self.recipe.k, self.recipe.seed) for g in self.deduplicated_graphs]

    @cached_property
    def authors_graph(self) -> NeighborGraph:
        """k-NN graph of the first `authors_points` points with near-duplicates, shared with an equal first group."""
        first = torch.arange(min(self.recipe.authors_points, len(self.cloud)), device=self.cloud.points.device)
        if self.group_members and torch.equal(first, self.group_members[0]):
            return self.deduplicated_graphs[0]
        return build_exact_graph(self.cloud.points[first], AUTHORS_NEIGHBORS, self.recipe.seed)


AUTHORS_NEIGHBORS = 4
"""Neighbours per point: two are used, and two spare ones let float64 distances reorder near-ties."""
