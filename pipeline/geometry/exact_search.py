"""Exact nearest neighbours: fast products propose candidates, differences give their distances, bounds certify lists.

A list of neighbours is certified if bounds on all rounding errors prove that no nearer point is missing in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pipeline.geometry.candidates import CandidateEngine, Candidates, default_ladder, direct_engine, torch_engine
from pipeline.geometry.chunking import chunk_matrix_rows, select_rows, sort_rows
from pipeline.geometry.exact_distances import DISTANCE_TOLERANCE, pair_distances
from pipeline.geometry.precision import UNIT_ROUNDOFF

SHIFT_ROWS = 1024
"""Number of random points whose coordinate-wise median is subtracted from all points before products."""
MASSIVE_NORM_MULTIPLE = 8.0
"""Points longer than this many median lengths have an error bound of their own, because a common bound for all points
would be too loose."""
STEP_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-23}
"""Largest relative error of one addition in a matrix product, by the dtype of its operands. For bfloat16 it is twice
that of float32, because tensor cores may truncate the float32 sums instead of rounding them."""
PILOT_QUERIES = 256
"""Number of queries on which a fast engine of low precision is tried first. The engine is skipped if less than half of
their lists can be certified."""


class NeighborLists(NamedTuple):
    """The k nearest other points of each query, nearest first; points at equal distances are ordered by index."""

    distances: Float64[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]
    certified: Bool[Tensor, " rows"]
    """True if no point outside the list can be nearer than its last point by more than the relative
    DISTANCE_TOLERANCE."""


@dataclass(frozen=True)
class _View:
    """Points in the form that an engine gets: shifted and rounded, with bounds on the rounding errors."""

    values: Float[Tensor, "points dim"]
    """Shifted and rounded points."""
    length: Float64[Tensor, " points"]
    """Tight upper bound of the length of each rounded point."""
    error: Float64[Tensor, " points"]
    """Upper bound of the distance by which rounding moved each point."""
    gamma: float
    """Bound of the relative error of a dot product over d dimensions: 4 times the statistical bound (sqrt(d) + 8) u,
    but no more than the worst case (d + 8) u, where u is the STEP_ROUNDOFF."""
    massive: Bool[Tensor, " points"]
    """True for points longer than MASSIVE_NORM_MULTIPLE median lengths."""

    @classmethod
    def of(cls, points: Tensor, shift: Tensor, dtype: torch.dtype) -> "_View":
        values = points.new_empty(points.shape, dtype=dtype)
        length, error = points.new_empty(2, len(points), dtype=torch.float64)
        for part in chunk_matrix_rows(points, 24):
            exact = points[part] - shift
            values[part] = exact
            length[part] = torch.linalg.vector_norm(exact, dim=1)
            error[part] = torch.linalg.vector_norm(exact.sub_(values[part]), dim=1)
        # The difference from the shift is itself rounded once, to float64.
        error += UNIT_ROUNDOFF[torch.float64] * length
        length += error
        unit, dim = STEP_ROUNDOFF[dtype], points.shape[1]
        gamma = min(4 * (dim**0.5 + 8), dim + 8) * unit
        return cls(values, length, error, gamma, length > MASSIVE_NORM_MULTIPLE * length.median())


def search_neighbors(
    points: Float[Tensor, "points dim"],
    k: int,
    rows: Int[Tensor, " rows"],
    seed: int = 0,
    engine: CandidateEngine | None = None,
) -> NeighborLists:
    """Return the min(k, len(points) - 1) exact nearest other points of each of `points[rows]`.

    The coordinate-wise median is subtracted, and candidates come from float32 products (on a GPU with many dimensions,
    first from bfloat16 products). Their distances are recomputed by differences of the stored values (see
    `pair_distances`). A list is certified if the triangle inequality, with bounds on rounding errors, excludes every
    point that was not proposed. Lists that are not certified are searched again with float64 products, and then with
    differences from every point.

    Args:
        points: `[points, dim]`, finite and distinct, float32 or float64.
        k: number of neighbours.
        rows: indices of the queries, ascending.
        seed: seed of the subsample whose median is the shift.
        engine: engine to start with, in float32, instead of those of `default_ladder`. It does not change the result
            by more than the DISTANCE_TOLERANCE.
    """
    k = max(min(k, len(points) - 1), 0)
    lists = NeighborLists(
        points.new_zeros(len(rows), k, dtype=torch.float64),
        rows.new_zeros(len(rows), k),
        torch.full_like(rows, k == 0, dtype=torch.bool),
    )
    if not k or not len(rows):
        return lists
    for propose, view in _ladder(points, k, rows, seed, engine):
        uncertified = (~lists.certified).nonzero().flatten()
        found = _search_with(points, view, rows[uncertified], k, propose)
        for whole, part in zip(lists, found, strict=True):
            whole[uncertified] = part
        if bool(lists.certified.all()):
            break
    return lists


def _ladder(
    points: Tensor, k: int, rows: Tensor, seed: int, engine: CandidateEngine | None
) -> Iterator[tuple[CandidateEngine, _View]]:
    """Yield pairs (engine, view of the points for it), from the cheapest engine to the exact one.

    A view is created only when its pair is asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    subsample = torch.randperm(len(points), generator=generator)[:SHIFT_ROWS].to(points.device)
    shift = points[subsample].median(0).values.to(torch.float64)
    *cheaper, (propose, dtype) = [(engine, torch.float32)] if engine else default_ladder(points.device, *points.shape)
    for cheap, coarse in cheaper:
        view, pilot = _View.of(points, shift, coarse), rows[:: -(-len(rows) // PILOT_QUERIES)]
        if float(_search_with(points, view, pilot, k, cheap).certified.double().mean()) >= 0.5:
            yield cheap, view
    yield propose, _View.of(points, shift, dtype)
    view = _View.of(points, shift, torch.float64)
    yield torch_engine, view
    yield direct_engine, view


def _search_with(points: Tensor, view: _View, rows: Tensor, k: int, propose: CandidateEngine) -> NeighborLists:
    width = min(max(k + 8, 32), len(points) - 1)
    found = propose(select_rows(view.values, rows), view.values, width + 1)
    candidates = _without_self(found, rows)
    nearest, indices = _by_differences(points, rows, candidates.clamp_min(0))
    nearest, indices = nearest[:, :k], indices[:, :k]
    sound = (candidates >= 0).all(1) & nearest.isfinite().all(1)
    if width < len(points) - 1 and propose is not direct_engine:
        sound &= _certified(view, rows, found.squared_distances.amax(1).to(torch.float64), nearest[:, -1])
    return NeighborLists(nearest, indices, sound)


def _without_self(found: Candidates, rows: Tensor) -> Int[Tensor, "rows width"]:
    """Return the candidates without one per row: the query itself, or the farthest one if the query is not among them.

    Cancellation in the products can keep a query out of its own candidates.
    """
    drop = found.indices == rows[:, None]
    absent = (~drop.any(1)).nonzero().flatten()
    drop[absent, found.squared_distances[absent].argmax(1)] = True
    return found.indices[~drop].view(len(rows), -1)


def _by_differences(points: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return (distances by differences, candidates), both nearest first; equal distances are ordered by index."""
    candidates = sort_rows(candidates)
    nearest, order = pair_distances(points, rows, candidates).sort(dim=1, stable=True)
    return nearest, candidates.gather(1, order)


def _certified(view: _View, rows: Tensor, cutoff: Tensor, last: Tensor) -> Bool[Tensor, " rows"]:
    """Return a mask of the rows for which no point outside the candidates can be nearer than the last of the list.

    A point y that was not proposed has an approximate squared distance from query x of at least `cutoff`, with an error
    of at most 2 gamma (|x|^2 + |y|^2), and both points are rounded. For queries that are not massive, this bound is
    computed over the points that are not massive. By the triangle inequality, a massive point is at least
    as far away as its length minus that of the query. A cutoff that overflowed excludes no point.

    Args:
        cutoff: largest approximate squared distance among the candidates of each row.
        last: distance of the last point in the list of each row.
    """
    massive, own = view.massive[rows], view.length[rows]
    ordinary = ~view.massive
    farthest = torch.where(massive, view.length.max(), view.length[ordinary].max())
    error = view.error[rows] + torch.where(massive, view.error.max(), view.error[ordinary].max())
    slip = 2 * view.gamma * (own.square() + farthest.square())
    reach = (cutoff - slip).clamp_min(0).sqrt() - error
    gap = view.length[view.massive].min() - own - view.error.max() if view.massive.any() else torch.inf
    # In float64, a tie with a point outside the candidates may be certified, because the distances are equal.
    last = last * (1 + (-DISTANCE_TOLERANCE if view.values.dtype == torch.float64 else DISTANCE_TOLERANCE))
    return cutoff.isfinite() & (last <= reach) & (massive | (last <= gap))
