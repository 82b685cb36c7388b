"""Norms: lengths of tokens, mean cosine between tokens, and coordinates with the largest variance."""

import functools
import math
import operator
from collections.abc import Callable

from pipeline.geometry.accumulator import DirectionSums
from pipeline.geometry.jackknife import jackknife_columns
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.population import Population

COLUMNS = (
    *(f"cosine_mean{suffix}{end}" for suffix in ("", "_no_sink") for end in ("", "_se", "_groups")),
    *("norm_mean", "norm_mean_se", "norm_mean_groups", "norm_median", "norm_max"),
    *("abs_max", "abs_median", "top_dims", "top_dims_share"),
)
TIMING_COLUMN = "spectrum_s"
TOP_DIMS = 3


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group.

    All are null without tokens (flag `too_few_tokens`). Mean cosines are also null with fewer than two non-zero tokens
    (flag `too_few_tokens` or `too_few_ordinary_tokens`), and the top dimensions if the layer does not vary.
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    if not layer.every.pooled.count:
        layer.flags.add("too_few_tokens")
        return row
    row |= _cosine_columns(layer, layer.every, "", "too_few_tokens")
    row |= _cosine_columns(layer, layer.ordinary, "_no_sink", "too_few_ordinary_tokens")
    row |= jackknife_columns("norm_mean", *whole_and_without(layer.every, norm_mean))
    row |= {
        "norm_median": norm_median(layer),
        "norm_max": norm_max(layer),
        "abs_max": abs_max(layer),
        "abs_median": abs_median(layer),
    }
    if layer.varies:
        row["top_dims"], row["top_dims_share"] = top_dims(layer)
    return row


def _cosine_columns(layer: Layer, population: Population, suffix: str, flag: str) -> MetricValues:
    whole, without = whole_and_without(population, cosine_mean)
    if whole is None:
        layer.flags.add(flag)
    return jackknife_columns(f"cosine_mean{suffix}", whole, without)


def whole_and_without(
    population: Population, metric: Callable[[DirectionSums, int], float | None]
) -> tuple[float | None, list[float | None]]:
    """Return the metric of all groups together, and the list of its values with one group left out at a time.

    The list is empty if there is only one group.

    Args:
        metric: function of the sums over tokens and the number of tokens.
    """
    groups = list(zip(population.sums.directions, (m.count for m in population.sums.moments), strict=True))
    whole, count = functools.reduce(operator.add, (sums for sums, _ in groups)), population.pooled.count
    without = [metric(whole - sums, count - n) for sums, n in groups] if len(groups) > 1 else []
    return metric(whole, count), without


def cosine_mean(sums: DirectionSums, count: int) -> float | None:
    """Return the exact mean cosine over all pairs of non-zero tokens, or None with fewer than two such tokens.

    It is (|sum u|^2 - N) / (N (N - 1)) with the directions u = x / |x| of the N non-zero tokens; `count` is not used.

    Source: Ethayarajh 2019 (arXiv 1909.00512), who averages over a sample of pairs.
    Bias: a few rogue dimensions can dominate it (Timkey and van Schijndel 2021, arXiv 2109.04404). The standard error
        is too large (by a factor of 1.7 in one measurement) for tokens without a common direction.
    """
    n = int(sums.n_nonzero)
    return None if n < 2 else (float(sums.direction_sum.square().sum()) - n) / (n * (n - 1))


def norm_mean(sums: DirectionSums, count: int) -> float | None:
    """Return the mean norm of a token; None without tokens.

    Source: a moment.
    Bias: none; a few sinks can dominate the mean, see `norm_median`.
    """
    return float(sums.norm_sum) / count if count else None


def norm_median(layer: Layer) -> float:
    """Return the median norm of a token; with an even number of tokens, the lower of the two middle norms.

    It is exact up to 262,144 tokens. With more tokens, it is the median of a sample, which has the norms at equally
    spaced ranks of every 2048 tokens.

    Source: a quantile.
    Bias: none; sampling adds 5 % of the median's standard error at one million tokens, and up to 100 % at 16 million.
    """
    return float(layer.moments.norm_statistics.sample.median())


def norm_max(layer: Layer) -> float:
    """Return the largest norm of a token.

    Source: a maximum.
    Bias: grows with the number of tokens.
    """
    return layer.moments.norm_statistics.largest


def abs_max(layer: Layer) -> float:
    """Return the largest absolute coordinate of any token.

    Source: a maximum; massive activations: Sun et al. 2024 (arXiv 2402.17762).
    Bias: grows with the number of tokens.
    """
    return layer.moments.abs_max


def abs_median(layer: Layer) -> float | None:
    """Return the median absolute coordinate of the first 512 tokens; None if none of them is finite.

    `abs_max` divided by `abs_median` is the size of the massive activations.

    Source: Sun et al. 2024 (arXiv 2402.17762).
    Bias: none; the sampling error is that of the first 512 tokens, from one group of contexts.
    """
    median = layer.moments.abs_median
    return None if math.isnan(median) else median


def top_dims(layer: Layer) -> tuple[list[int], list[float]]:
    """Return the indices of the three coordinates with the largest variance, and their shares of the total variance.

    Source: rogue dimensions, Timkey and van Schijndel 2021 (arXiv 2109.04404).
    Bias: upward if all variances are equal, since the largest of many shares is selected.
    """
    variance = layer.every.covariance.diagonal()
    share, dims = (variance / variance.sum()).topk(min(TOP_DIMS, len(variance)))
    return dims.tolist(), share.tolist()
