"""Interior peaks of noisy curves: one test for profiles over depth and for histories over training.

A peak is selected as the highest of many points, so a test of one difference at two standard errors is invalid: the
highest and the lowest of 20 equal values differ by more than that nearly always. All differences within a curve are
therefore tested simultaneously, with Tukey's studentized range. `critical_difference` is the bound that the largest
difference exceeds in 5 % of pure-noise curves whose errors vary from point to point as much as this curve's do
(`spread`).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# `stdtrit(df, p)` is the implementation of scipy.stats.t.ppf(p, df); importing scipy.stats takes a second longer.
from scipy.special import polygamma, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FALSE_POSITIVE_RATE = 0.05
"""Largest probability that a pure-noise curve is called anything but flat."""
MIN_STANDARD_ERRORS = 2.0
"""Smallest critical difference, in standard errors."""
POOLING_REACH = 2
"""Neighbours on either side pooled into a point's variance, which alone rests on three or four degrees of freedom."""
ERROR_SPREADS = (1.0, 2.0, 4.0, 8.0)
"""Ratios of the largest to the smallest true error for which critical differences are simulated."""
SIMULATED = 4000
EXACT_UP_TO = 32
"""Points up to which bounds are simulated at the curve's own length; beyond, at the next power of sqrt(2): stricter."""
MAX_PAIRS_AT_ONCE = 2_000_000

PEAK, VALLEY, RISING, FALLING, FLAT = "peak", "valley", "rising", "falling", "flat"


class CurveShapes(NamedTuple):
    """Shapes of curves, one entry per curve. Intervals are simultaneous over all differences of a curve."""

    shape_name: NDArray[np.str_]
    """peak, valley, rising, falling or flat."""
    top: Ints
    """Index of the peak; of the highest point if there is no peak."""
    peak_first: Ints
    peak_last: Ints
    """First and last index of the 95 % interval of the peak: points not significantly below the top."""
    height: Floats
    """Height of the highest interior point above both sides; negative if no point exceeds both."""
    height_low: Floats
    height_high: Floats
    """95 % interval of `height`; the shape is `peak` exactly if `height_low` is above 0."""


def classify_curves(
    values: Floats, se: Floats, df: int, ends: bool = False, alpha: float = FALSE_POSITIVE_RATE
) -> CurveShapes:
    """Classify the shape of each curve.

    Args:
        values: [curves, points].
        se: [curves, points], standard errors of `values`.
        df: degrees of freedom of the standard errors, groups - 1.
        ends: if true, a peak is compared with the first and the last point, else with any point before and any after.
        alpha: largest probability that a pure-noise curve is called anything but flat.

    Bias: errors of different points are treated as independent. Checkpoints and layers read the same contexts, so
        their errors are positively correlated and the test is conservative. The spread of the errors cannot be
        estimated from few groups, so the critical difference is never below Student's t, which is strict: 12.7
        standard errors with two groups, 4.3 with three.
    """
    at_once = max(1, MAX_PAIRS_AT_ONCE // values.shape[1] ** 2)
    variance = se**2
    spreads = estimate_error_spread(variance, df).tolist()
    bounds = np.array([_critical_bound(values.shape[1], df, alpha, spread) for spread in spreads])
    batches = [slice(start, start + at_once) for start in range(0, len(values), at_once)]
    parts = [_classify(values[batch], pool_variances(variance[batch]), bounds[batch], ends) for batch in batches]
    return CurveShapes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def pool_variances(variance: Floats) -> Floats:
    """Average each variance with up to POOLING_REACH neighbours on either side; never less than its own value."""
    total, count = _windows(variance)
    return np.maximum(variance, total / count)


def estimate_error_spread(variance: Floats, df: int) -> Floats:
    """Estimate the ratio of the largest to the smallest true error of each curve, rounded up to ERROR_SPREADS.

    The estimate uses the variance of log(variance / mean of its neighbours), variance being [curves, points]. If
    errors are log-uniform between 1 and S times the smallest, the log of a variance has variance log(S)^2 / 3, in
    addition to trigamma(df / 2) from its df degrees of freedom.

    Source: moments of log variances, as in Smyth 2004 (limma).
    """
    variance = np.maximum(variance, np.finfo(float).tiny)
    total, count = _windows(variance)
    others = count - 1
    apart = np.log(variance) - np.log(np.maximum(total - variance, np.finfo(float).tiny) / others)
    noise = polygamma(1, df / 2) + polygamma(1, df * others / 2).mean()
    excess = np.maximum(apart.var(-1, ddof=1) - noise, 0) / (1 + 1 / (2 * POOLING_REACH))
    index = np.searchsorted(ERROR_SPREADS, np.exp(np.sqrt(3 * excess)))
    return np.array(ERROR_SPREADS)[np.minimum(index, len(ERROR_SPREADS) - 1)]


def _windows(variance: Floats) -> tuple[Floats, Ints]:
    """Sum and number of the variances of each point and its neighbours."""
    n = variance.shape[-1]
    sums = np.concatenate([np.zeros_like(variance[..., :1]), variance.cumsum(-1)], axis=-1)
    last, first = np.minimum(np.arange(n) + POOLING_REACH + 1, n), np.maximum(np.arange(n) - POOLING_REACH, 0)
    return sums[..., last] - sums[..., first], last - first


@lru_cache(maxsize=256)
def critical_difference(points: int, df: int, alpha: float = FALSE_POSITIVE_RATE, spread: float = 1.0) -> float:
    """Return the bound exceeded with probability alpha by the largest difference / standard error of equal values.

    Simulated by hand, with a fixed seed: normal values, chi-squared variances pooled by `pool_variances`, true errors
    log-uniform from 1 to `spread` times the smallest. scipy.stats.studentized_range covers only equal errors with one
    variance for all points.

    Source: the studentized range (Tukey 1953).
    Bias: conservative. The result is the upper 97.5 % bound of the simulated quantile, which is the quantile at a
        rate of 4.3 % if alpha is 5 %.
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


def _critical_bound(points: int, df: int, alpha: float, spread: float) -> float:
    if points > EXACT_UP_TO:
        points = int(np.ceil(2 ** (np.ceil(2 * np.log2(points)) / 2)))
    # If one error dwarfs all others, every difference from its point is the same Student's t variable.
    t = float(stdtrit(df, 1 - alpha / 2))
    return max(MIN_STANDARD_ERRORS, t, critical_difference(points, df, alpha, spread))


def _classify(values: Floats, variance: Floats, bound: Floats, ends: bool) -> CurveShapes:
    gap = values[:, None, :] - values[:, :, None]  # [curves, a, p]: value at p minus value at a
    margin = bound[:, None, None] * np.sqrt(variance[:, None, :] + variance[:, :, None])
    rise, fall = _sides(gap - margin, ends)
    both = np.minimum(rise, fall)
    height, high = (np.minimum(*_sides(g, ends)).max(1) for g in (gap, gap + margin))
    valley = np.minimum(*_sides(-gap - margin, ends)).max(1)
    peaked = both.max(1) > 0
    up, down = rise.max(1), fall.max(1)
    cases = [peaked, valley > 0, (up > 0) & (up >= down), down > 0]
    name = np.select(cases, [PEAK, VALLEY, RISING, FALLING], FLAT)
    top = np.where(peaked[:, None] & (both <= 0), -np.inf, values).argmax(1)
    first, last = _peak_interval(values, gap - margin, top)
    return CurveShapes(name, top, first, last, height, both.max(1), high)


def _sides(gap: Floats, ends: bool) -> tuple[Floats, Floats]:
    """Largest gap of each point to a point before it and to a point after it; -inf if there is none."""
    points = np.arange(gap.shape[-1])
    before, after = points[:, None] < points, points[:, None] > points
    if ends:
        before, after = before & (points == 0)[:, None], after & (points == points[-1])[:, None]
    return np.where(before, gap, -np.inf).max(1), np.where(after, gap, -np.inf).max(1)


def _peak_interval(values: Floats, gap_low: Floats, top: Ints) -> tuple[Ints, Ints]:
    """First and last point not significantly below the top, within the range around it where no value is higher."""
    rows, points = np.arange(len(values)), np.arange(values.shape[1])
    higher = values > values[rows, top][:, None]
    start = np.where(higher & (points < top[:, None]), points, -1).max(1)
    stop = np.where(higher & (points > top[:, None]), points, len(points)).min(1)
    near = gap_low[rows, :, top] <= 0
    near &= (points > start[:, None]) & (points < stop[:, None])
    return near.argmax(1), len(points) - 1 - near[:, ::-1].argmax(1)
