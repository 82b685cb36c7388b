"""Anisotropy: share of the variance along one direction, with and without sink tokens."""

from pipeline.geometry.eigen import top_eigenvalue
from pipeline.geometry.jackknife import jackknife_columns, leave_one_out
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.moments import Moments
from pipeline.geometry.population import Population

COLUMNS = (
    *("anisotropy", "anisotropy_se", "anisotropy_groups"),
    *("anisotropy_no_sink", "anisotropy_no_sink_se", "anisotropy_no_sink_groups"),
    *("anisotropy_uncentered", "sink_variance_share", "total_variance"),
)
TIMING_COLUMN = "spectrum_s"


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group.

    All are null if the layer does not vary (flag `constant_layer` or `too_few_tokens`). The `_no_sink` columns are also
    null if the tokens other than sinks do not vary (flag `too_few_ordinary_tokens`).
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    for suffix, population in layer.populations.items():
        value = anisotropy(population.pooled, float(population.covariance_eigen.values[0]))
        row |= jackknife_columns(f"anisotropy{suffix}", value, anisotropy_groups(layer, population))
    if layer.varies:
        row["anisotropy_uncentered"] = anisotropy_uncentered(layer)
        row["sink_variance_share"] = sink_variance_share(layer)
        row["total_variance"] = total_variance(layer)
    return row


def anisotropy(moments: Moments, largest: float | None = None) -> float:
    """Return the largest eigenvalue of the covariance over the sum of all, lambda_1 / sum lambda; range 1/dim..1.

    Rows are centered, but not normalised.

    Args:
        moments: float64 moments of at least two tokens that differ from each other.
        largest: lambda_1 if it is already known; None = compute it.

    Source: Razzhigaev et al. 2024 (arXiv 2311.05928), section 3; `_no_sink` (without sink tokens): this project, after
        Queipo-de-Llano et al. 2025 (arXiv 2510.06477).
    Bias: for an isotropic cloud of N tokens the value is (1 + sqrt(dim / N))^2 / dim; one sink per context makes the
        value depend on the context length. Without sinks the value depends on `sink_multiple`. No bias of the standard
        error was found: its root mean square is 0.93 to 1.03 of the spread over repeated draws, also with sinks and
        clusters.
    """
    covariance = moments.covariance()
    return (largest or top_eigenvalue(covariance)) / float(covariance.trace())


def anisotropy_groups(layer: Layer, population: Population) -> list[float | None]:
    """Return `anisotropy` with one group of contexts left out at a time, one value per group; empty with one group.

    A value is None if the tokens of the other groups do not vary (flag `constant_without_a_group`).

    Source: delete-a-group jackknife over disjoint groups of contexts.
    Bias: as `anisotropy`; the set of sink tokens is treated as known. The standard error of five groups is itself
        uncertain by 30 %.
    """
    without = leave_one_out(anisotropy, population.without_each_group())
    if None in without:
        layer.flags.add("constant_without_a_group")
    return without


def anisotropy_uncentered(layer: Layer) -> float:
    """Return lambda_1 / sum lambda over the eigenvalues of the uncentered second moment.

    The direction of the mean then counts as variance.

    Source: Queipo-de-Llano et al. 2025 (arXiv 2510.06477).
    Bias: near 1 if the mean is long, regardless of the spread about the mean.
    """
    return float(layer.every.second_moment_eigen.values[0] / layer.every.second_moment.trace())


def sink_variance_share(layer: Layer) -> float:
    """Return the share of sink tokens in the sum of |x - mean|^2 over all tokens; the mean is that of all tokens.

    Source: this project; an analysis of variance.
    Bias: none; the value depends on `sink_multiple` and on the context length.
    """
    center = layer.every.pooled.mean
    return layer.moments.sink_sums.squared_deviation(center) / layer.every.pooled.squared_deviation(center)


def total_variance(layer: Layer) -> float:
    """Return the trace of the centered covariance, in squared units of the activations.

    Source: sum over coordinates of the unbiased sample variance.
    Bias: none.
    """
    return float(layer.every.covariance.trace())
