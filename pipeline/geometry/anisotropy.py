"""Anisotropy: how much of the variance lies along one line, and how much of that is the sinks' doing."""

import math

from pipeline.geometry.eigen import top_eigenvalue
from pipeline.geometry.layer import Layer, Row
from pipeline.geometry.moments import Moments, merge

COLUMNS = (
    "anisotropy",
    "anisotropy_se",
    "anisotropy_uncentered",
    "anisotropy_no_sink",
    "sink_variance_share",
    "total_variance",
)


def measure(layer: Layer) -> Row:
    """The columns of this group; null on a layer that does not vary (`constant_layer`, `too_few_tokens`)."""
    if not layer.varies:
        return dict.fromkeys(COLUMNS)
    return {
        "anisotropy": anisotropy(layer.all, float(layer.centered.values[0])),
        "anisotropy_se": anisotropy_se(layer.moments.groups),
        "anisotropy_uncentered": anisotropy_uncentered(layer),
        "anisotropy_no_sink": anisotropy_no_sink(layer),
        "sink_variance_share": sink_variance_share(layer),
        "total_variance": total_variance(layer),
    }


def anisotropy(moments: Moments, largest: float | None = None) -> float:
    """lambda_1 / sum lambda of the centered covariance (Razzhigaev et al. 2024, section 3), without row norms.

    Range 1/dim..1. Bias: an isotropic cloud of N tokens reads (1 + sqrt(dim / N))^2 / dim. One sink per context makes
    it depend on the context length; see `anisotropy_no_sink`.

    Args:
        largest: lambda_1 where it is known already.
    """
    covariance = moments.covariance()
    return (largest or top_eigenvalue(covariance)) / float(covariance.trace())


def anisotropy_se(groups: list[Moments]) -> float | None:
    """Standard error of `anisotropy` by leaving one group of contexts out; null with one group."""
    n = len(groups)
    if n < 2 or any(sum(g.count for g in groups) - left.count < 2 for left in groups):
        return None
    without = [anisotropy(merge([*groups[:i], *groups[i + 1 :]])) for i in range(n)]
    mean = sum(without) / n
    return math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without))


def anisotropy_uncentered(layer: Layer) -> float:
    """lambda_1 / sum lambda of the second moment: the mean direction counts as variance."""
    return float(layer.uncentered.values[0] / layer.second_moment.trace())


def anisotropy_no_sink(layer: Layer) -> float | None:
    """`anisotropy` of the tokens that are not sinks; null where those are fewer than two or do not vary."""
    ordinary = merge(layer.moments.ordinary)
    if ordinary.count < 2 or float(ordinary.covariance().trace()) <= 2.0**-96 * float(layer.covariance.trace()):
        layer.flags.add("too_few_ordinary_tokens")
        return None
    return anisotropy(ordinary)


def sink_variance_share(layer: Layer) -> float:
    """Share of sum |x - mean|^2 that the sink tokens carry; mean over all tokens."""
    center = layer.all.mean
    return merge(layer.moments.sinks).deviation(center) / layer.all.deviation(center)


def total_variance(layer: Layer) -> float:
    """Trace of the centered covariance, in squared units of the activations."""
    return float(layer.covariance.trace())
