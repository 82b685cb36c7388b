"""Does a noisy curve have an interior peak? One decision for profiles over depth and for histories over training.

The place of a peak is chosen by looking, so twice the standard error of one difference is no bar: of 20 equal values
the highest and the lowest differ by more than that nearly always. All differences of a curve are therefore judged at
once, by Tukey's studentized range: `critical` is what the largest of them exceeds in 5 % of curves that are all noise,
of curves whose errors jump from point to point as much as this one's do (`spread`).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.student_t import t_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FALSE_POSITIVE_RATE = 0.05
"""How often a curve that is all noise may be called anything but flat."""
MIN_STANDARD_ERRORS = 2.0
"""What a rise or a fall must exceed in any case, in standard errors."""
POOLING_REACH = 2
"""Neighbours on either side with whom a row's variance is pooled: one row's rests on three or four differences."""
ERROR_SPREADS = (1.0, 2.0, 4.0, 8.0)
"""Ranges of true errors, largest over least, for which there is a bar."""
SIMULATED = 4000
EXACT_UP_TO = 32
"""Curves longer than this are judged as if they had the next power of the square root of two points: stricter."""
MAX_PAIRS_AT_ONCE = 2_000_000

PEAK, VALLEY, RISING, FALLING, FLAT = "peak", "valley", "rising", "falling", "flat"


class CurveShapes(NamedTuple):
    """What curves do, one entry per curve. Intervals hold for all differences of a curve at once."""

    shape_name: NDArray[np.str_]
    """peak, valley, rising, falling or flat."""
    top: Ints
    """Index of the peak; of the highest point where there is none."""
    peak_first: Ints
    peak_last: Ints
    """Of the points that may be the peak: none between here and there is sure to be lower."""
    height: Floats
    """How far the highest interior point stands above both sides; below 0 where none does."""
    height_low: Floats
    height_high: Floats
    """The 95 % interval of `height`; `peak` is said exactly where `low` is above 0."""


def classify_curves(
    values: Floats, se: Floats, df: int, ends: bool = False, alpha: float = FALSE_POSITIVE_RATE
) -> CurveShapes:
    """The shape of each curve.

    Args:
        values: [curves, points].
        se: [curves, points], standard errors of these.
        df: their degrees of freedom, groups - 1.
        ends: a peak must stand above the first and the last point; otherwise above any point before and any after.
        alpha: how often a curve that is all noise may be called anything but flat.

    Bias: errors of different points are taken as independent. Checkpoints and layers read the same contexts, so theirs
        go together; differences are then surer than judged here, and less is claimed than could be. How much errors
        jump cannot be seen from few groups, so no bar is below Student's t, which is strict: 12.7 standard errors with
        two groups, 4.3 with three.
    """
    at_once = max(1, MAX_PAIRS_AT_ONCE // values.shape[1] ** 2)
    variance = se**2
    bars = np.array([_bar(values.shape[1], df, alpha, jumps) for jumps in estimate_error_spread(variance, df).tolist()])
    parts = [
        _judge(values[i : i + at_once], pool_variances(variance[i : i + at_once]), bars[i : i + at_once], ends)
        for i in range(0, len(values), at_once)
    ]
    return CurveShapes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def pool_variances(variance: Floats) -> Floats:
    """The mean with up to WINDOW neighbours on either side, never less than the point's own; [..., points]."""
    total, count = _windows(variance)
    return np.maximum(variance, total / count)


def estimate_error_spread(variance: Floats, df: int) -> Floats:
    """How many times the least of a curve's true errors the largest is: of SPREADS the one next above; [curves].

    Estimated from how far each variance, [curves, points], lies from the mean of its neighbours, on a log scale. If
    errors are anything from 1 to S times the least, with equal odds on that scale, the log of a variance has variance
    log(S)^2 / 3, besides the trigamma(df / 2) that df degrees of freedom give it.

    Source: moments of log variances, as in Smyth 2004 (limma).
    """
    variance = np.maximum(variance, np.finfo(float).tiny)
    total, count = _windows(variance)
    others = count - 1
    apart = np.log(variance) - np.log(np.maximum(total - variance, np.finfo(float).tiny) / others)
    noise = _trigamma(df) + np.mean([_trigamma(df * n) for n in others.tolist()])
    excess = np.maximum(apart.var(-1, ddof=1) - noise, 0) / (1 + 1 / (2 * POOLING_REACH))
    found = np.searchsorted(ERROR_SPREADS, np.exp(np.sqrt(3 * excess)))
    return np.array(ERROR_SPREADS)[np.minimum(found, len(ERROR_SPREADS) - 1)]


def _windows(variance: Floats) -> tuple[Floats, Ints]:
    """Of each point and its neighbours, the sum of the variances and the number."""
    n = variance.shape[-1]
    sums = np.concatenate([np.zeros_like(variance[..., :1]), variance.cumsum(-1)], axis=-1)
    last, first = np.minimum(np.arange(n) + POOLING_REACH + 1, n), np.maximum(np.arange(n) - POOLING_REACH, 0)
    return sums[..., last] - sums[..., first], last - first


def _trigamma(n: int) -> float:
    """The variance of the log of a chi-squared variable of n degrees of freedom: trigamma(n / 2)."""
    start = 1.0 - n % 2 / 2
    return (np.pi**2 / 2 if n % 2 else np.pi**2 / 6) - float((np.arange(start, n / 2) ** -2).sum())


@lru_cache(maxsize=256)
def critical_difference(points: int, df: int, alpha: float = FALSE_POSITIVE_RATE, spread: float = 1.0) -> float:
    """What the largest difference over its standard error exceeds with probability alpha in a curve of equal values.

    By simulation of normal values and chi-squared variances, with true errors anything from 1 to `spread` times the
    least, seeded; the upper 97.5 % bound of the quantile.

    Source: the studentized range (Tukey 1953), here with the variances of `pooled`.
    Bias: 0.7 % of 5 % low in its rate, to be sure of the side.
    """
    random = np.random.default_rng([points, df])
    values = random.standard_normal((SIMULATED, points))
    variance = random.chisquare(df, (SIMULATED, points)) / df
    error = spread ** random.random((SIMULATED, points))
    values, variance = error * values, pool_variances(error**2 * variance)
    largest = np.zeros(SIMULATED)
    for lag in range(1, points):
        squares = (values[:, lag:] - values[:, :-lag]) ** 2 / (variance[:, lag:] + variance[:, :-lag])
        np.maximum(largest, squares.max(axis=1), out=largest)
    above = SIMULATED * alpha - 2 * np.sqrt(SIMULATED * alpha * (1 - alpha))
    return float(np.sqrt(np.sort(largest)[-max(1, int(above))]))


def _bar(points: int, df: int, alpha: float, jumps: float) -> float:
    if points > EXACT_UP_TO:
        points = int(np.ceil(2 ** (np.ceil(2 * np.log2(points)) / 2)))
    # An error beside which all others vanish makes every difference from its point one and the same Student's t.
    return max(MIN_STANDARD_ERRORS, t_quantile(df, 1 - alpha / 2), critical_difference(points, df, alpha, jumps))


def _judge(values: Floats, variance: Floats, bar: Floats, ends: bool) -> CurveShapes:
    gap = values[:, None, :] - values[:, :, None]  # [curves, a, p]: how far p stands above a
    margin = bar[:, None, None] * np.sqrt(variance[:, None, :] + variance[:, :, None])
    rise, fall = _sides(gap - margin, ends)
    both = np.minimum(rise, fall)
    height, high = (np.minimum(*_sides(g, ends)).max(1) for g in (gap, gap + margin))
    valley = np.minimum(*_sides(-gap - margin, ends)).max(1)
    peaked = both.max(1) > 0
    words = [PEAK, VALLEY, RISING, FALLING]
    up, down = rise.max(1), fall.max(1)
    word = np.select([peaked, valley > 0, (up > 0) & (up >= down), down > 0], words, FLAT)
    top = np.where(peaked[:, None] & (both <= 0), -np.inf, values).argmax(1)
    first, last = _candidates(values, gap - margin, top)
    return CurveShapes(word, top, first, last, height, both.max(1), high)


def _sides(gap: Floats, ends: bool) -> tuple[Floats, Floats]:
    """How far each point stands above what comes before it, and above what comes after; -inf where nothing does."""
    points = np.arange(gap.shape[-1])
    before, after = points[:, None] < points, points[:, None] > points
    if ends:
        before, after = before & (points == 0)[:, None], after & (points == points[-1])[:, None]
    return np.where(before, gap, -np.inf).max(1), np.where(after, gap, -np.inf).max(1)


def _candidates(values: Floats, surely: Floats, top: Ints) -> tuple[Ints, Ints]:
    """First and last point not surely below the top, within the stretch about it where nothing is higher."""
    rows, points = np.arange(len(values)), np.arange(values.shape[1])
    higher = values > values[rows, top][:, None]
    start = np.where(higher & (points < top[:, None]), points, -1).max(1)
    stop = np.where(higher & (points > top[:, None]), points, len(points)).min(1)
    near = surely[rows, :, top] <= 0
    near &= (points > start[:, None]) & (points < stop[:, None])
    return near.argmax(1), len(points) - 1 - near[:, ::-1].argmax(1)
