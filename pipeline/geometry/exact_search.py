"""Exact nearest neighbours: candidates in float32, distances recomputed by differences, one certificate per list."""

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
MASSIVE_NORM_MULTIPLE = 8.0
"""Points longer than this many median lengths get a separate error bound, because a common bound would be too loose."""
STEP_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-23}
"""Rounding unit of one step of a product's sum; tensor cores may truncate float32 sums of 16-bit operands."""
PILOT_QUERIES = 256
"""Number of queries on which an engine is tried first; an engine that certifies less than half of them is skipped."""


class NeighborLists(NamedTuple):
    """The k nearest other points of each query, nearest first, ties ordered by index."""

    distances: Float64[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]
    certified: Bool[Tensor, " rows"]
    """True if no unlisted point can be nearer than the last listed one by more than DISTANCE_TOLERANCE."""


@dataclass(frozen=True)
class _View:
    """Points in the form that an engine gets: shifted and rounded, with bounds on the rounding errors."""

    values: Float[Tensor, "points dim"]
    length: Float64[Tensor, " points"]
    """Tight upper bound of the length of each rounded point."""
    error: Float64[Tensor, " points"]
    """Upper bound of the distance by which rounding moved each point."""
    gamma: float
    """Relative error of a product: 4 times the statistical bound (sqrt(d) + 8) u, at most the worst case (d + 8) u."""
    massive: Bool[Tensor, " points"]

    @classmethod
    def of(cls, points: Tensor, shift: Tensor, dtype: torch.dtype) -> "_View":
        values = points.new_empty(points.shape, dtype=dtype)
        length, error = points.new_empty(2, len(points), dtype=torch.float64)
        for part in chunk_matrix_rows(points, 24):
            exact = points[part] - shift
            values[part] = exact
            length[part] = torch.linalg.vector_norm(exact, dim=1)
            error[part] = torch.linalg.vector_norm(exact.sub_(values[part]), dim=1)
        # The float64 difference itself has one rounding.
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
    """Return the min(k, points - 1) exact nearest other points of `points[rows]`, independent of the engine.

    Candidates come from float32 products after subtracting the coordinate-wise median, on a GPU first from bfloat16
    products. Their distances are recomputed by differences of the stored values (see `pair_distances`). A list is
    certified if the triangle inequality, with bounds on rounding errors, excludes every point that was not proposed.
    Uncertified lists are searched again with float64 products, and then with differences from every point.

    Args:
        points: `[points, dim]`, finite and distinct, float32 or float64.
        k: number of neighbours.
        rows: indices of the queries, ascending.
        seed: seed of the subsample whose median is the shift.
        engine: first engine, used in float32; by default the engines of `default_ladder`.
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
    """Yield the engines from cheapest to exact, each with its view of the points, created on demand."""
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
    """Drop one candidate per row: the query itself, or the farthest if the query is missing due to cancellation."""
    drop = found.indices == rows[:, None]
    absent = (~drop.any(1)).nonzero().flatten()
    drop[absent, found.squared_distances[absent].argmax(1)] = True
    return found.indices[~drop].view(len(rows), -1)


def _by_differences(points: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances to the candidates by differences, and the candidates, sorted; ties ordered by index."""
    candidates = sort_rows(candidates)
    nearest, order = pair_distances(points, rows, candidates).sort(dim=1, stable=True)
    return nearest, candidates.gather(1, order)


def _certified(view: _View, rows: Tensor, cutoff: Tensor, last: Tensor) -> Bool[Tensor, " rows"]:
    """Return True per row if no point outside the candidates can be nearer than the last point of its list.

    A point y that was not proposed has an approximate squared distance from query x of at least `cutoff`, with an error
    of at most 2 gamma (|x|^2 + |y|^2), and both points are rounded. For ordinary queries the bound uses ordinary points
    only; massive points are at least as far away as the lengths differ. A cutoff that overflowed excludes no point.
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
