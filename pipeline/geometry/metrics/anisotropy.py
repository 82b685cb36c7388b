"""Anisotropy: share of the variance along one direction, with and without sink tokens."""

import math

from pipeline.geometry.eigen import top_eigenvalue
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.moments import Moments, merge_moments

COLUMNS = (
    *("anisotropy", "anisotropy_se", "anisotropy_uncentered", "anisotropy_no_sink", "anisotropy_no_sink_se"),
    *("sink_variance_share", "total_variance"),
)
TIMING_COLUMN = "spectrum_s"


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; null if the layer does not vary (`constant_layer`, `too_few_tokens`)."""
    if not layer.varies:
        return dict.fromkeys(COLUMNS)
    return {
        "anisotropy": anisotropy(layer.pooled_moments, float(layer.covariance_eigen.values[0])),
        "anisotropy_se": anisotropy_se(layer),
        "anisotropy_uncentered": anisotropy_uncentered(layer),
        "anisotropy_no_sink": anisotropy_no_sink(layer),
        "anisotropy_no_sink_se": anisotropy_no_sink_se(layer),
        "sink_variance_share": sink_variance_share(layer),
        "total_variance": total_variance(layer),
    }


def anisotropy(moments: Moments, largest: float | None = None) -> float:
    """Return lambda_1 / sum lambda of the centered covariance, rows not normalised; range 1/dim..1.

    Args:
        moments: float64 moments of at least two tokens that differ.
        largest: lambda_1 if it is already known.

    Source: Razzhigaev et al. 2024 (arXiv 2311.05928), section 3.
    Bias: an isotropic cloud of N tokens reads (1 + sqrt(dim / N))^2 / dim; one sink per context makes it depend on the
        context's length, see `anisotropy_no_sink`.
    """
    covariance = moments.covariance()
    return (largest or top_eigenvalue(covariance)) / float(covariance.trace())


def anisotropy_se(layer: Layer) -> float | None:
    """Return the standard error of `anisotropy` by leaving out one group of contexts; None with one group.

    Also None if the remaining tokens do not vary (`constant_without_a_group`).

    Source: delete-a-group jackknife over disjoint groups of contexts.
    Bias: upward, as for every jackknife; with few groups it is itself uncertain (30 % with five).
    """
    return _jackknife(layer, layer.moments.group_moments)


def anisotropy_uncentered(layer: Layer) -> float:
    """Return lambda_1 / sum lambda of the uncentered second moment: the mean direction counts as variance.

    Source: Queipo-de-Llano et al. 2025 (arXiv 2510.06477).
    Bias: near 1 if the mean is long, regardless of the spread about it.
    """
    return float(layer.second_moment_eigen.values[0] / layer.second_moment.trace())


def anisotropy_no_sink(layer: Layer) -> float | None:
    """Return `anisotropy` of the tokens that are not sinks; None if there are fewer than two or they do not vary.

    Source: this project; sinks as the cause: Queipo-de-Llano et al. 2025 (arXiv 2510.06477).
    Bias: as `anisotropy` for an isotropic cloud; the value depends on `sink_multiple`.
    """
    ordinary = merge_moments(layer.moments.group_moments_no_sink)
    if not layer.is_spread(ordinary):
        layer.flags.add("too_few_ordinary_tokens")
        return None
    return anisotropy(ordinary)


def anisotropy_no_sink_se(layer: Layer) -> float | None:
    """Return the standard error of `anisotropy_no_sink`; None in the same cases as `anisotropy_se`.

    Source: delete-a-group jackknife over disjoint groups of contexts.
    Bias: as `anisotropy_se`; the set of sink tokens is treated as known.
    """
    return _jackknife(layer, layer.moments.group_moments_no_sink)


def sink_variance_share(layer: Layer) -> float:
    """Return the share of sum |x - mean|^2 that sink tokens carry, with the mean over all tokens.

    Source: this project; an analysis of variance.
    Bias: none; the value depends on `sink_multiple` and on the context's length.
    """
    center = layer.pooled_moments.mean
    return layer.moments.sink_sums.squared_deviation(center) / layer.pooled_moments.squared_deviation(center)


def total_variance(layer: Layer) -> float:
    """Return the trace of the centered covariance, in squared units of the activations.

    Source: sum over coordinates of the unbiased sample variance.
    Bias: none.
    """
    return float(layer.covariance.trace())


def _jackknife(layer: Layer, groups: list[Moments]) -> float | None:
    n = len(groups)
    if n < 2:
        return None
    without = []
    for i in range(n):  # one at a time: each remainder is as large as a group's scatter
        left = merge_moments([*groups[:i], *groups[i + 1 :]])
        if not layer.is_spread(left):
            layer.flags.add("constant_without_a_group")
            return None
        without.append(anisotropy(left))
    mean = sum(without) / n
    return math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))
