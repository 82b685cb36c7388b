"""Simultaneous test of all differences within a noisy curve, with paired errors if its points share contexts.

A peak is selected as the highest of many points, so a test of one difference at two standard errors is invalid: the
highest and the lowest of 20 noisy values with the same truth nearly always differ by more than that. All differences
within a curve are therefore tested simultaneously, with Tukey's studentized range. The largest difference of a
pure-noise curve, in standard errors, exceeds the bound in at most 5 % of such curves.

Bounds are simulated. `critical_difference` has independent errors whose size varies over the points as much as the
errors of the given curve do (`spread`). `critical_paired_difference` has errors of equal size whose correlation between
neighbouring points is that of the errors of the given curve (`correlation`).
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
"""Largest probability that a pure-noise curve has any difference that is called significant."""
MIN_STANDARD_ERRORS = 2.0
"""Smallest critical difference, in standard errors."""
POOLING_REACH = 2
"""The variance of a point is averaged with those of this many neighbours on either side, since on its own it has only
three or four degrees of freedom."""
ERROR_SPREADS = (1.0, 2.0, 4.0, 8.0)
"""Ratios of the largest to the smallest true error for which critical differences are simulated."""
CORRELATIONS, CORRELATION_LIMITS = (0.0, 0.5, 0.9, 0.99), (0.25, 0.6, 0.92)
"""Correlations of neighbouring errors for which critical differences are simulated, and the limits between which an
estimated correlation is rounded to each of these."""
SMOOTH = 0.9
"""Correlation of neighbouring errors from which each variance is raised to at least the mean variance of the curve."""
SIMULATED = 4000
"""Number of curves in a simulation; half of it for curves of over 32 points with correlated errors."""
EXACT_UP_TO = 32
"""Largest number of points for which a bound is simulated with just as many points. For a longer curve, the number is
rounded up to a power of sqrt(2), which gives a stricter bound."""
_TINY = float(np.finfo(float).tiny)


class PairErrors(NamedTuple):
    """Errors of the differences between the points of each curve."""

    variance: Floats
    """Variance of value[j] - value[i], indexed [curve, i, j]. If errors are paired, it is never below the estimate from
    this pair alone."""
    bound: Floats
    """Number of standard errors above which a difference is significant, [curves]."""

    @property
    def margin(self) -> Floats:
        """Half width of the simultaneous interval of value[j] - value[i], indexed [curve, i, j]."""
        return self.bound[:, None, None] * np.sqrt(self.variance)


def estimate_unpaired_errors(se: Floats, df: int, alpha: float = FALSE_POSITIVE_RATE) -> PairErrors:
    """Estimate the errors of differences from standard errors `se` [curves, points] with `df` degrees of freedom.

    Bias: errors of different points are treated as independent. Where points read the same contexts, the errors are
        positively correlated and the test is conservative.
    """
    variance = se**2
    bounds = [_critical_bound(se.shape[1], df, alpha, spread) for spread in estimate_error_spread(variance, df)]
    pooled = pool_variances(variance)
    return PairErrors(pooled[:, None, :] + pooled[:, :, None], np.array(bounds))


def estimate_paired_errors(deviations: Floats, alpha: float = FALSE_POSITIVE_RATE) -> PairErrors:
    """Estimate the errors of differences from deviations per group of contexts (`group_errors`).

    The part of the error that all points of a group share cancels in a difference. The variance of the rest is averaged
    over neighbouring points. The variance of a difference is never below the estimate from its two points alone, since
    distant points may share less of their error than others do.

    Args:
        deviations: [curves, points, groups].
        alpha: largest share of pure-noise curves with a significant difference.
    """
    points, df = deviations.shape[1], deviations.shape[2] - 1
    variance, own = _paired_variances(deviations)
    spreads, similar = estimate_error_spread(variance, df), estimate_correlation(deviations)
    bounds = [_paired_bound(points, df, alpha, *kind) for kind in zip(spreads, similar, strict=True)]
    # Smooth errors of two groups cross zero together in neighbouring points, which then all look exact.
    least = np.where(similar >= SMOOTH, variance.mean(1), 0)
    pooled = np.maximum(pool_variances(variance), least[:, None])
    return PairErrors(np.maximum(pooled[:, None, :] + pooled[:, :, None], own), np.array(bounds))


def _paired_variances(deviations: Floats) -> tuple[Floats, Floats]:
    """Return the variance of each point without the error that all points share, and that of each difference."""
    points = deviations.shape[1]
    rest = deviations - deviations.mean(1, keepdims=True)
    products = rest @ rest.transpose(0, 2, 1)
    each = np.einsum("cpp->cp", products)
    own = each[:, :, None] + each[:, None, :] - 2 * products
    return each * points / (points - 1), np.maximum(own, 0)


def estimate_correlation(deviations: Floats) -> Floats:
    """Estimate the correlation of the errors of neighbouring points, per curve, rounded to a value of CORRELATIONS."""
    rest = deviations - deviations.mean(1, keepdims=True)
    size = np.sqrt((rest**2).sum(2, keepdims=True))
    unit = rest / np.maximum(size, _TINY)
    similar = (unit[:, 1:] * unit[:, :-1]).sum(2).mean(1)
    return np.array(CORRELATIONS)[np.searchsorted(CORRELATION_LIMITS, similar)]


def pool_variances(variance: Floats) -> Floats:
    """Return the mean of each variance and of those of up to POOLING_REACH neighbours on either side.

    A variance that is above this mean stays as it is.
    """
    total, count = _windows(variance)
    return np.maximum(variance, total / count)


def estimate_error_spread(variance: Floats, df: int) -> Floats:
    """Estimate the ratio of the largest to the smallest true error of each curve, rounded up to one of ERROR_SPREADS.

    The estimate comes from the variance, over points, of the log of each variance divided by the mean of its
    neighbours. If the log of the true error is uniform from that of the smallest to that of S times the smallest, the
    log of an estimated variance has variance log(S)^2 / 3, in addition to trigamma(df / 2) from its df degrees of
    freedom.

    Source: moments of log variances, as in Smyth 2004 (limma).

    Args:
        variance: estimated variance of each point, [curves, points].
        df: degrees of freedom of each variance.
    """
    variance = np.maximum(variance, _TINY)
    total, count = _windows(variance)
    others = count - 1
    apart = np.log(variance) - np.log(np.maximum(total - variance, _TINY) / others)
    noise = polygamma(1, df / 2) + polygamma(1, df * others / 2).mean()
    excess = np.maximum(apart.var(-1, ddof=1) - noise, 0) / (1 + 1 / (2 * POOLING_REACH))
    index = np.searchsorted(ERROR_SPREADS, np.exp(np.sqrt(3 * excess)))
    return np.array(ERROR_SPREADS)[np.minimum(index, len(ERROR_SPREADS) - 1)]


def _windows(variance: Floats) -> tuple[Floats, Ints]:
    """Return the sum of the variances of each point and its neighbours, and the number of these variances."""
    n = variance.shape[-1]
    sums = np.concatenate([np.zeros_like(variance[..., :1]), variance.cumsum(-1)], axis=-1)
    last, first = np.minimum(np.arange(n) + POOLING_REACH + 1, n), np.maximum(np.arange(n) - POOLING_REACH, 0)
    return sums[..., last] - sums[..., first], last - first


@lru_cache(maxsize=256)
def critical_difference(points: int, df: int, alpha: float = FALSE_POSITIVE_RATE, spread: float = 1.0) -> float:
    """Return the bound that the largest difference of a pure-noise curve, in standard errors, exceeds at rate `alpha`.

    It is simulated with a fixed seed, from normal values and chi-squared variances that `pool_variances` averages. The
    true errors are log-uniform from 1 to `spread` times the smallest. scipy.stats.studentized_range covers only errors
    of equal size with one variance for all points.

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
    return _upper_quantile(largest, alpha)


@lru_cache(maxsize=256)
def critical_paired_difference(points: int, df: int, alpha: float, correlation: float) -> float:
    """Return the bound of `critical_difference` for errors per group that are a stationary AR(1) series over points.

    If errors are smooth, those of neighbouring points are nearly the same, and averaging their variances adds no
    degrees of freedom. The bound is then larger.

    Args:
        correlation: correlation of the errors of neighbouring points.
    """
    random, groups = np.random.default_rng([points, df, round(100 * correlation)]), df + 1
    curves = SIMULATED if points <= EXACT_UP_TO else SIMULATED // 2
    noise = random.standard_normal((points, curves, groups), np.float32)
    for point in range(1, points):
        noise[point] = correlation * noise[point - 1] + np.sqrt(1 - correlation**2) * noise[point]
    values = noise.mean(2)
    rest = (noise - values[:, :, None]) / np.sqrt(groups * df)
    rest -= rest.mean(0)
    pooled = pool_variances((rest**2).sum(2).T.astype(float) * points / (points - 1)).T
    largest = np.zeros(curves)
    for lag in range(1, points):
        own = ((rest[lag:] - rest[:-lag]) ** 2).sum(2)
        squares = (values[lag:] - values[:-lag]) ** 2 / np.maximum(own, pooled[lag:] + pooled[:-lag])
        np.maximum(largest, squares.max(axis=0), out=largest)
    return _upper_quantile(largest, alpha)


def _upper_quantile(squares: Floats, alpha: float) -> float:
    """Return the upper 97.5 % confidence bound of the 1 - alpha quantile of the square roots of `squares`."""
    n = len(squares)
    above = n * alpha - 2 * np.sqrt(n * alpha * (1 - alpha))
    return float(np.sqrt(np.sort(squares)[-max(1, int(above))]))


def _paired_bound(points: int, df: int, alpha: float, spread: float, correlation: float) -> float:
    bound = _critical_bound(points, df, alpha, spread)
    if df == 1:  # errors that drift along the curve are one variable, of which the test selects the largest difference
        bound = max(bound, float(stdtrit(df, 1 - alpha / 4)))
    if correlation == 0:
        return bound
    return max(bound, critical_paired_difference(_simulated_points(points), df, alpha, correlation))


def _critical_bound(points: int, df: int, alpha: float, spread: float) -> float:
    # If one error dwarfs all others, every difference from its point is the same Student's t variable.
    t = float(stdtrit(df, 1 - alpha / 2))
    return max(MIN_STANDARD_ERRORS, t, critical_difference(_simulated_points(points), df, alpha, float(spread)))


def _simulated_points(points: int) -> int:
    return points if points <= EXACT_UP_TO else int(np.ceil(2 ** (np.ceil(2 * np.log2(points)) / 2)))
