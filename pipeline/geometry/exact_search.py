"""Exact nearest neighbours: float32 candidates, distances again by differences, and a certificate for every list."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pipeline.geometry.candidates import CandidateEngine, Candidates, default_ladder, direct_engine, torch_engine
from pipeline.geometry.chunking import chunk_matrix_rows, select_rows
from pipeline.geometry.exact_distances import DISTANCE_TOLERANCE, pair_distances
from pipeline.geometry.precision import UNIT_ROUNDOFF

SHIFT_ROWS = 1024
MASSIVE_NORM_MULTIPLE = 8.0
"""Rows longer than this many median lengths get a bound of their own, or no other row could be certified."""
STEP_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-23}
"""Of one step of a product's sum; 16-bit operands are summed in float32, which tensor cores may truncate."""
PILOT_QUERIES = 256
"""Tried first where another rung is near: one that certifies less than half of them is passed over."""


class NeighborLists(NamedTuple):
    """Of each query its k nearest other points, nearest first, ties by index."""

    distances: Float64[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]
    certified: Bool[Tensor, " rows"]
    """Whether no other point can be nearer than the last one of the list, by more than SLACK."""


@dataclass(frozen=True)
class _View:
    """The points as one engine sees them: shifted and rounded, with what rounding can have done to distances."""

    values: Float[Tensor, "points dim"]
    length: Float64[Tensor, " points"]
    """Not less than that of the values, and hardly more."""
    error: Float64[Tensor, " points"]
    """Distance by which rounding moved a point."""
    gamma: float
    """Relative error of a product: 4 times the statistical bound (sqrt(d) + 8) u, or the worst case if smaller."""
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
        # The float64 difference itself is rounded once.
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
    """The min(k, points - 1) nearest other points of `points[rows]`, exactly, whatever the engine.

    Candidates come from float32 products about the coordinate-wise median, on a GPU from bfloat16 ones before. Their
    distances are taken again as differences of the stored values (see `differences`). A list is certified when the
    triangle inequality over the rounding errors rules out every point that was not proposed; what is not certified
    goes through float64 products, then through differences from every point.

    Args:
        points: finite and distinct, float32 or float64.
        rows: indices of the queries, ascending.
        engine: of the first rung, in float32; default as `first_rungs` has it.
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
        open_ = (~lists.certified).nonzero().flatten()
        found = _rung(points, view, rows[open_], k, propose)
        for whole, part in zip(lists, found, strict=True):
            whole[open_] = part
        if bool(lists.certified.all()):
            break
    return lists


def _ladder(
    points: Tensor, k: int, rows: Tensor, seed: int, engine: CandidateEngine | None
) -> Iterator[tuple[CandidateEngine, _View]]:
    """The rungs from cheap to certain; a rung's view is made when it is reached."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(points), generator=generator)[:SHIFT_ROWS].to(points.device)
    shift = points[some].median(0).values.to(torch.float64)
    *low, (propose, dtype) = [(engine, torch.float32)] if engine else default_ladder(points.device, points.shape[1])
    for cheap, coarse in low:
        view, some = _View.of(points, shift, coarse), rows[:: -(-len(rows) // PILOT_QUERIES)]
        if float(_rung(points, view, some, k, cheap).certified.double().mean()) >= 0.5:
            yield cheap, view
    yield propose, _View.of(points, shift, dtype)
    view = _View.of(points, shift, torch.float64)
    yield torch_engine, view
    yield direct_engine, view


def _rung(points: Tensor, view: _View, rows: Tensor, k: int, propose: CandidateEngine) -> NeighborLists:
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
    """One candidate less per row: the query itself, or the farthest where cancellation hid the query."""
    drop = found.indices == rows[:, None]
    absent = (~drop.any(1)).nonzero().flatten()
    drop[absent, found.squared_distances[absent].argmax(1)] = True
    return found.indices[~drop].view(len(rows), -1)


def _by_differences(points: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the candidates from differences of the stored values; sorted, ties by index."""
    candidates = candidates.sort(1).values
    nearest, order = pair_distances(points, rows, candidates).sort(dim=1, stable=True)
    return nearest, candidates.gather(1, order)


def _certified(view: _View, rows: Tensor, cutoff: Tensor, last: Tensor) -> Bool[Tensor, " rows"]:
    """Whether no point beyond the candidates can be nearer than the list's last.

    A point that was not proposed has an approximate squared distance of at least `cutoff`, off by at most
    2 gamma (|x|^2 + |y|^2), between positions off by the rounding errors. For ordinary rows y ranges over the ordinary
    points alone; massive ones are farther than the difference of the lengths.
    """
    massive, own = view.massive[rows], view.length[rows]
    ordinary = ~view.massive
    farthest = torch.where(massive, view.length.max(), view.length[ordinary].max())
    error = view.error[rows] + torch.where(massive, view.error.max(), view.error[ordinary].max())
    slip = 2 * view.gamma * (own.square() + farthest.square())
    reach = (cutoff - slip).clamp_min(0).sqrt() - error
    gap = view.length[view.massive].min() - own - view.error.max() if view.massive.any() else torch.inf
    # In float64 a tie that runs past the candidates is no failure: the distances are right either way.
    last = last * (1 + (-DISTANCE_TOLERANCE if view.values.dtype == torch.float64 else DISTANCE_TOLERANCE))
    return (last <= reach) & (massive | (last <= gap))
