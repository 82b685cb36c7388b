"""Shapes of noisy curves: the sequence of significant moves, and interior peaks with their height and interval.

The same test serves curves over depth and over training: `pipeline.analysis.simultaneous_test` tests all differences
within a curve simultaneously. A move is a significant difference between two points; rises and falls alternate in a
sequence of moves.
"""

from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.simultaneous_test import Floats, Ints, PairErrors

MAX_PAIRS_AT_ONCE = 2_000_000
MAIN_SHARE = 0.1
"""Smallest size of a main move, as a share of the largest significant difference of the curve. The verdict on a curve
names only its main moves."""
RISE, FALL = "rise", "fall"


class Move(NamedTuple):
    """A significant difference between two points of a curve, with its simultaneous 95 % interval."""

    first: int
    """Index of the point at which the move starts."""
    last: int
    """Index of the point at which the move ends."""
    size: float
    """Difference of the values, negative for a fall."""
    low: float
    high: float

    @property
    def direction(self) -> str:
        return RISE if self.size > 0 else FALL


class CurveShapes(NamedTuple):
    """Shapes of curves, one entry per curve. Intervals are simultaneous over all differences of a curve."""

    moves: list[list[Move]]
    """Longest alternating sequence of significant moves. Of equally long ones, it has the largest total size."""
    main: list[list[Move]]
    """Longest such sequence of moves that are larger than MAIN_SHARE of the largest significant difference."""
    peaked: NDArray[np.bool_]
    """True if an interior point is significantly above a point before it and one after it: a peak."""
    top: Ints
    """Index of the peak, or of the highest point if there is no peak."""
    peak_first: Ints
    peak_last: Ints
    """First and last index of the 95 % interval of the top, within which points are not significantly lower."""
    height: Floats
    """Each point has a height above the lowest point before it and one above the lowest point after it. This is the
    smaller of the two, for the point where it is largest. Negative if no point lies above points on both sides."""
    height_low: Floats
    height_high: Floats
    """95 % interval of `height`; a curve is `peaked` exactly if `height_low` is above 0."""


def classify_curves(values: Floats, errors: PairErrors, ends: bool = False) -> CurveShapes:
    """Find the moves and the interior peak of each curve.

    Args:
        values: [curves, points].
        errors: errors of the differences of these values.
        ends: if true, a peak has to lie above the first and the last point of the curve; if false, above any point
            before it and any point after it.
    """
    at_once = max(1, MAX_PAIRS_AT_ONCE // values.shape[1] ** 2)
    batches = [slice(start, start + at_once) for start in range(0, len(values), at_once)]
    parts = [_classify(values[batch], PairErrors(*(part[batch] for part in errors)), ends) for batch in batches]
    moves, main, *arrays = zip(*parts, strict=True)
    return CurveShapes(list(chain(*moves)), list(chain(*main)), *(np.concatenate(each) for each in arrays))


def _classify(values: Floats, errors: PairErrors, ends: bool) -> CurveShapes:
    gap, margin = values[:, None, :] - values[:, :, None], errors.margin  # [curve, i, j]: value[j] - value[i]
    both = np.minimum(*_sides(gap - margin, ends))
    height, high = (np.minimum(*_sides(g, ends)).max(1) for g in (gap, gap + margin))
    peaked = both.max(1) > 0
    top = np.where(peaked[:, None] & (both <= 0), -np.inf, values).argmax(1)
    first, last = _peak_interval(values, gap - margin, top)
    least = MAIN_SHARE * np.where(np.abs(gap) > margin, np.abs(gap), 0).max((1, 2))[:, None, None]
    moves, main = (find_moves(gap, margin, np.maximum(margin, size)) for size in (0.0, least))
    return CurveShapes(moves, main, peaked, top, first, last, height, both.max(1), high)


def find_moves(gap: Floats, margin: Floats, least: Floats) -> list[list[Move]]:
    """Find, for each curve, the longest alternating sequence of moves that are larger than `least`.

    This is dynamic programming over the point at which a move ends. The score of a sequence is the number of its moves;
    the total size of the moves breaks ties.

    Args:
        gap: value[j] - value[i], indexed [curve, i, j].
        margin: half width of the interval of `gap`.
        least: absolute difference above which `gap` is a move.
    """
    moving: NDArray[np.bool_] = np.any(np.abs(gap) > least, axis=(1, 2))
    each = iter(zip(*_score_moves(gap[moving], least[moving]), gap[moving], margin[moving], strict=True))
    return [_trace(*next(each)) if moves else [] for moves in moving.tolist()]


def _score_moves(gap: Floats, least: Floats) -> tuple[Floats, Ints]:
    """Return the score of the best sequence that ends at each point, and the index at which its last move starts.

    Both arrays are [curves, way, points], where `way` is 0 if the last move is a fall and 1 if it is a rise.
    """
    curves, points = len(gap), gap.shape[-1]
    size = gap / (points * np.maximum(np.abs(gap).max((1, 2), initial=0), np.finfo(float).tiny))[:, None, None]
    score, start = np.zeros((curves, 2, points)), np.full((curves, 2, points), -1)
    for point in range(1, points):
        for way, sign in enumerate((-1, 1)):  # contiguous rows: gap[:, point, i] is minus the move from i
            allowed = sign * gap[:, point, :point] > least[:, point, :point]
            reached = np.where(allowed, score[:, 1 - way, :point] + 1 + sign * size[:, point, :point], 0)
            score[:, way, point], start[:, way, point] = reached.max(1), reached.argmax(1)
    return score, start


def _trace(score: Floats, start: Ints, gap: Floats, margin: Floats) -> list[Move]:
    way, point = (int(i) for i in np.unravel_index(score.argmax(), score.shape))
    moves: list[Move] = []
    while score[way, point] > 0:
        first = int(start[way, point])
        size, half = float(gap[first, point]), float(margin[first, point])
        moves.append(Move(first, point, size, size - half, size + half))
        way, point = 1 - way, first
    return moves[::-1]


def _sides(gap: Floats, ends: bool) -> tuple[Floats, Floats]:
    """Return the largest gap of each point to a point before it, and to one after it; -inf if there is no such point.

    If `ends` is true, only the first and the last point of the curve count as before and after.
    """
    points = np.arange(gap.shape[-1])
    before, after = points[:, None] < points, points[:, None] > points
    if ends:
        before, after = before & (points == 0)[:, None], after & (points == points[-1])[:, None]
    return np.where(before, gap, -np.inf).max(1), np.where(after, gap, -np.inf).max(1)


def _peak_interval(values: Floats, gap_low: Floats, top: Ints) -> tuple[Ints, Ints]:
    """Return the first and the last point that are not significantly below the top.

    Only the range around the top in which no value is higher is searched.
    """
    rows, points = np.arange(len(values)), np.arange(values.shape[1])
    higher = values > values[rows, top][:, None]
    start = np.where(higher & (points < top[:, None]), points, -1).max(1)
    stop = np.where(higher & (points > top[:, None]), points, len(points)).min(1)
    near = gap_low[rows, :, top] <= 0
    near &= (points > start[:, None]) & (points < stop[:, None])
    return near.argmax(1), len(points) - 1 - near[:, ::-1].argmax(1)
