"""Exact k-NN graph of the finite, distinct points of a cloud; points without certified neighbours are marked."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pipeline.geometry.candidates import CandidateEngine
from pipeline.geometry.chunking import chunk_matrix_rows, select_rows
from pipeline.geometry.duplicates import find_distinct_rows
from pipeline.geometry.exact_search import search_neighbors
from pipeline.geometry.precision import UNIT_ROUNDOFF, upcast_to_float32

NEAR_DUPLICATE_ROUNDINGS = 32
"""Largest distance between near-duplicates, in rounding units of their norm; 2e-6 of the norm in float32. The hidden
states of equal inputs can be so far apart if they come from batches of different shapes."""


@dataclass(frozen=True)
class NeighborGraph:
    """Graph of the k nearest neighbours of every kept point; there are fewer than k if too few points are kept.

    The kept points are those points of the cloud that are finite, distinct, and not removed later.
    """

    point_indices: Int[Tensor, " kept"]
    """Index of each kept point in the cloud, ascending."""
    copies: Int[Tensor, " kept"]
    """Number of points in the cloud that equal each kept point exactly, including the point itself."""
    points: Float[Tensor, "kept dim"]
    """Kept points, float32 or float64."""
    distances: Float64[Tensor, "kept k"]
    """Distances to the neighbours, ascending."""
    indices: Int[Tensor, "kept k"]
    """Indices of the neighbours among the kept points; neighbours at equal distances are ordered by index."""
    resolved: Bool[Tensor, " kept"]
    """False for points whose neighbours could not be certified as exact; `radii` leaves them out."""
    rounding_unit: float
    """Rounding unit of the cloud's original dtype."""
    n_nonfinite: int
    """Number of points of the cloud that have NaN or infinity."""
    n_duplicates: int
    """Number of points removed because they equal an earlier point."""
    n_near_duplicates: int = 0
    """Number of points that `drop_near_duplicates` removed."""

    @property
    def n_unresolved(self) -> int:
        return int((~self.resolved).sum())

    @property
    def radii(self) -> Float64[Tensor, "resolved k"]:
        """Distances to the neighbours, ascending, of the kept points whose neighbours are certified as exact."""
        return self.distances[self.resolved]

    @property
    def rounding_noise(self) -> Float64[Tensor, " kept"]:
        """Upper bound of the distance by which rounding of the activations moved each point x: rounding unit * |x|."""
        return self.rounding_unit * torch.linalg.vector_norm(self.points, dim=1, dtype=torch.float64)


def build_exact_graph(
    points: Float[Tensor, "points dim"], k: int, seed: int = 0, engine: CandidateEngine | None = None
) -> NeighborGraph:
    """Build the k-NN graph of the finite, distinct points; it is exact for points of any magnitude and offset.

    Args:
        points: `[points, dim]` in the model's own dtype.
        k: number of neighbours per point.
        seed: seed of the subsample whose median is subtracted before products. Another seed changes distances by a
            relative 9.5e-7 at most.
        engine: engine that proposes candidates, by default one suited to the device. Another engine changes distances
            by no more than another seed.
    """
    largest = torch.cat([points[part].abs().amax(1) for part in chunk_matrix_rows(points, 8)])
    finite = largest.isfinite().nonzero().flatten()
    finite_points = select_rows(points, finite)
    kept, copies = find_distinct_rows(finite_points)
    values = upcast_to_float32(select_rows(finite_points, kept))
    lists = search_neighbors(values, k, torch.arange(len(values), device=points.device), seed, engine)
    return NeighborGraph(
        finite[kept],
        copies,
        values,
        *lists,
        rounding_unit=UNIT_ROUNDOFF[points.dtype],
        n_nonfinite=len(points) - len(finite),
        n_duplicates=len(finite) - len(kept),
    )


def drop_near_duplicates(
    graph: NeighborGraph, k: int, seed: int = 0, engine: CandidateEngine | None = None
) -> NeighborGraph:
    """Return the graph without points whose distance from an earlier point is no larger than rounding of the dtype.

    A pair x, y at distance r is a pair of near-duplicates if r <= min(32 u |x|, 0.02 median r1), where u is the
    rounding unit and r1 the distance of a point to its nearest neighbour. The second bound keeps true neighbours in a
    low-precision layer with a large offset. The returned graph has k neighbours per point; see `restrict_graph`.
    """
    while len(graph.point_indices) > 1:
        threshold = torch.minimum(
            NEAR_DUPLICATE_ROUNDINGS * graph.rounding_noise, 0.02 * graph.distances[:, 0].median()
        )
        row, column = (graph.distances <= threshold[:, None]).nonzero(as_tuple=True)
        if not len(row):
            break
        keep = torch.ones_like(graph.resolved)
        keep[torch.maximum(row, graph.indices[row, column])] = False
        removed = graph.n_near_duplicates + int((~keep).sum())
        graph = replace(restrict_graph(graph, keep, k, seed, engine), n_near_duplicates=removed)
    return graph


def restrict_graph(
    graph: NeighborGraph, keep: Bool[Tensor, " kept"], k: int, seed: int = 0, engine: CandidateEngine | None = None
) -> NeighborGraph:
    """Return the exact graph of the `k` nearest neighbours among the points for which `keep` is True.

    The neighbours of a point that are kept are its nearest kept points. Only lists with fewer than k of them are
    therefore searched again. Points without certified neighbours stay unresolved unless their list is searched again.
    """
    k = max(min(k, int(keep.sum()) - 1), 0)
    points, renumber = graph.points[keep], keep.cumsum(0) - 1
    lists, resolved = graph.indices[keep], graph.resolved[keep]
    members = keep[lists]
    nearest = members.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
    distances, indices = graph.distances[keep].gather(1, nearest), renumber[lists.gather(1, nearest)]
    stale = (members.sum(1) < k).nonzero().flatten()
    distances[stale], indices[stale], resolved[stale] = search_neighbors(points, k, stale, seed, engine)
    return replace(
        graph,
        point_indices=graph.point_indices[keep],
        copies=graph.copies[keep],
        points=points,
        distances=distances,
        indices=indices,
        resolved=resolved,
    )
