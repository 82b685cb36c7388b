"""The exact k-NN graph of a cloud: sanitised, without duplicates, every list certified."""

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
"""Copies may differ by so many roundings of their length, 2e-6 of it in float32: other batch shapes can cause that."""


@dataclass(frozen=True)
class NeighborGraph:
    """The k nearest neighbours of every kept point; k is smaller where there are too few points."""

    point_indices: Int[Tensor, " point_indices"]
    """Index of each kept point in the cloud, ascending."""
    copies: Int[Tensor, " point_indices"]
    """How many points of the cloud are exactly equal to it, itself among them."""
    points: Float[Tensor, "kept dim"]
    """The kept points, float32 or float64."""
    distances: Float64[Tensor, "kept k"]
    """Nearest first."""
    indices: Int[Tensor, "kept k"]
    """Of the neighbours among the kept points; ties by index."""
    resolved: Bool[Tensor, " point_indices"]
    """False where exact neighbours could not be certified; estimators leave such rows out."""
    rounding_unit: float
    """Rounding unit of the dtype in which the cloud came."""
    n_nonfinite: int
    n_duplicates: int
    n_near_duplicates: int = 0

    @property
    def n_unresolved(self) -> int:
        return int((~self.resolved).sum())

    @property
    def radii(self) -> Float64[Tensor, "resolved k"]:
        """Neighbour distances of the resolved points."""
        return self.distances[self.resolved]

    @property
    def rounding_noise(self) -> Float64[Tensor, " point_indices"]:
        """By how much rounding of the activations may have moved each point: unit * |x|."""
        return self.rounding_unit * torch.linalg.vector_norm(self.points, dim=1, dtype=torch.float64)


def build_exact_graph(
    points: Float[Tensor, "points dim"], k: int, seed: int = 0, engine: CandidateEngine | None = None
) -> NeighborGraph:
    """The graph of the finite, distinct points, in whatever order of magnitude and with whatever offset they come.

    Args:
        points: in the dtype in which the model made them.
        k: neighbours wanted.
        seed: of the subsample whose median is the shift; changes no distance by more than 9.5e-7 relative.
        engine: proposes candidates; changes no distance either.
    """
    largest = torch.cat([points[part].abs().amax(1) for part in chunk_matrix_rows(points, 8)])
    finite = largest.isfinite().nonzero().flatten()
    there = select_rows(points, finite)
    kept, copies = find_distinct_rows(there)
    values = upcast_to_float32(select_rows(there, kept))
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
    """The graph without points that differ from an earlier one by no more than the noise of their own dtype.

    Two points are one where r <= min(32 u |x|, 0.02 median r1); the second bound keeps a low-precision layer with a
    large offset from losing real neighbours. Lists that held a removed point are searched again.
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
        graph = _restrict(graph, keep, k, seed, engine)
    return graph


def _restrict(
    graph: NeighborGraph, keep: Bool[Tensor, " kept"], k: int, seed: int, engine: CandidateEngine | None
) -> NeighborGraph:
    """The graph on some of its points; only lists that lose a member are searched again."""
    k = min(k, int(keep.sum()) - 1)
    points, renumber = graph.points[keep], keep.cumsum(0) - 1
    distances, indices, resolved = graph.distances[keep][:, :k], graph.indices[keep][:, :k], graph.resolved[keep]
    hurt = (~keep[indices]).any(1).nonzero().flatten()
    indices = renumber[indices]
    again = search_neighbors(points, k, hurt, seed, engine)
    distances[hurt], indices[hurt], resolved[hurt] = again
    return replace(
        graph,
        point_indices=graph.point_indices[keep],
        copies=graph.copies[keep],
        points=points,
        distances=distances,
        indices=indices,
        resolved=resolved,
        n_near_duplicates=graph.n_near_duplicates + int((~keep).sum()),
    )
