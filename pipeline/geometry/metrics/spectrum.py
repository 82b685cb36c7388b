"""Spectrum: eigenvalues, participation ratio, effective ranks and decay exponent, with and without sink tokens.

Effective ranks and alpha use only eigenvalues above the noise floor; the flag `spectrum_floor` is set if this excludes
any. Standard errors come from leave-one-group-out values. These use the same number of eigenvalues, and compute each
eigenvalue to first order.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.jackknife import jackknife_columns, leave_one_out
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.moments import Moments
from pipeline.geometry.population import Population

RATIO_COLUMNS = ("participation_ratio", "effective_rank_sigma", "effective_rank_lambda", "alpha")
COLUMNS = (
    *(f"{name}{set_}{end}" for name in RATIO_COLUMNS for set_ in ("", "_no_sink") for end in ("", "_se", "_groups")),
    *("top_eigenvalues", "top_eigenvalues_no_sink"),
    *("alpha_r2", "alpha_lo", "alpha_hi", "alpha_no_sink_lo", "alpha_no_sink_hi"),
    *("participation_ratio_corrected", "pca_90", "pca_99"),
    *("eigenvalue_ranks", "eigenvalues_at_ranks", "marchenko_pastur_edge"),
)
TIMING_COLUMN = "spectrum_s"
N_TOP_EIGENVALUES = 32
N_LOG_SPACED = 64
ALPHA_RANKS = (12, 100)
ALPHA_MIN_RANKS = 8

Eigenvalues = Float64[Tensor, " _values"]
"""Eigenvalues in descending order."""


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group.

    All are null if the layer does not vary (flag `constant_layer` or `too_few_tokens`). The `_no_sink` columns are also
    null if the tokens other than sinks do not vary (flag `too_few_ordinary_tokens`).
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    for suffix, population in layer.populations.items():
        row |= _ratios(layer, population, suffix)
    if not layer.varies:
        return row
    values, ranks = layer.every.covariance_eigen.values, eigenvalue_ranks(layer.every)
    row |= {
        "participation_ratio_corrected": participation_ratio_corrected(layer.every.pooled),
        **{"pca_90": pca(values, 0.9), "pca_99": pca(values, 0.99)},
        **{"eigenvalue_ranks": ranks, "eigenvalues_at_ranks": eigenvalues_at_ranks(values, ranks)},
        "marchenko_pastur_edge": marchenko_pastur_edge(layer.every),
    }
    if row["participation_ratio_corrected"] is None:
        layer.flags.add("too_few_tokens")
    return row


def _ratios(layer: Layer, population: Population, end: str) -> MetricValues:
    """Return the columns that exist both for all tokens and without sinks; `end` is their suffix, "" or "_no_sink"."""
    sigma, lambda_ = population.second_moment_eigen.values, population.covariance_eigen.values
    n_sigma, n_lambda = (population.count_above_floor(values) for values in (sigma, lambda_))
    if n_sigma < len(sigma) or n_lambda < len(lambda_):
        layer.flags.add("spectrum_floor")
    without_sigma = population.second_moment_values_without_groups
    without_lambda = population.covariance_values_without_groups
    ratio = participation_ratio(population.covariance)
    without = leave_one_out(lambda m: participation_ratio(m.covariance()), population.without_each_group())
    row = jackknife_columns(f"participation_ratio{end}", ratio, without)
    rank = effective_rank_sigma(sigma[:n_sigma])
    without = leave_one_out(lambda values: effective_rank_sigma(values[:n_sigma]), without_sigma)
    row |= jackknife_columns(f"effective_rank_sigma{end}", rank, without)
    rank = effective_rank_lambda(lambda_[:n_lambda])
    without = leave_one_out(lambda values: effective_rank_lambda(values[:n_lambda]), without_lambda)
    row |= jackknife_columns(f"effective_rank_lambda{end}", rank, without)
    row[f"top_eigenvalues{end}"] = top_eigenvalues(lambda_)
    return row | _alpha_columns(layer, end, lambda_[:n_lambda], without_lambda)


def _alpha_columns(layer: Layer, end: str, values: Eigenvalues, without: list[Eigenvalues | None]) -> MetricValues:
    """Return the columns of the fit of alpha. Fits with one group left out use the same ranks as that of all groups."""
    lo, hi = ALPHA_RANKS[0], min(ALPHA_RANKS[1], len(values))
    row: MetricValues = {} if end else {"alpha_r2": None}
    row |= {f"alpha{end}_lo": None, f"alpha{end}_hi": None} | jackknife_columns(f"alpha{end}", None, [])
    if hi - lo + 1 < ALPHA_MIN_RANKS:
        layer.flags.add("alpha_range")
        return row
    exponent, r2 = alpha(values, lo, hi)
    row |= jackknife_columns(f"alpha{end}", exponent, leave_one_out(lambda part: alpha(part, lo, hi)[0], without))
    row |= {f"alpha{end}_lo": lo, f"alpha{end}_hi": hi}
    return row if end else row | {"alpha_r2": r2}


def top_eigenvalues(values: Eigenvalues) -> list[float]:
    """Return the 32 largest eigenvalues of the centered covariance, or all if there are fewer.

    Source: principal component analysis.
    Bias: upward for large eigenvalues, downward for small ones. If all other eigenvalues are 1, an eigenvalue l above
        1 + sqrt(g) is estimated as about l (1 + g / (l - 1)), where g = dim / N and N is the number of tokens.
    """
    return values[:N_TOP_EIGENVALUES].tolist()


def participation_ratio(covariance: Float64[Tensor, "dim dim"]) -> float:
    """Return PR = (sum lambda)^2 / sum lambda^2 over the eigenvalues lambda of the centered covariance.

    IsoScore is (PR - 1) / (dim - 1).

    Source: Gao et al. 2017 (bioRxiv 214262).
    Bias: 1/PR is too large by about 1/N, so PR is too small; see `participation_ratio_corrected`. A single sink token
        in 256 can reduce PR to 1; `_no_sink` excludes sinks.
    """
    return float(covariance.trace().square() / covariance.square().sum())


def participation_ratio_corrected(moments: Moments) -> float | None:
    """Return the ratio of unbiased estimates of (sum lambda)^2 and sum lambda^2 (see `participation_ratio`).

    Both estimates are averages over all choices of four different tokens, computed from sums about the shift. The
    result is None with fewer than four tokens, or if the estimate of the denominator is not positive.

    Source: Chun et al. 2025 (arXiv 2509.26560), corrected for rows.
    Bias: tokens of one context are not independent, so part of the bias of `participation_ratio` remains.
    """
    n, s, t = moments.count, moments.scatter, moments.shifted_sum
    if n < 4:
        return None
    trace, length, fourth, third = s.trace(), t @ t, moments.quartic_sum, t @ moments.cubic_sum
    square, through = s.square().sum(), t @ s @ t
    pairs = (n - 1) * (n - 2)
    above = (
        trace**2
        - 2 * trace * length / (n - 1)
        + (4 * third - n * fourth) / (n - 2)
        + (length**2 - 4 * through + 2 * square - trace**2) / pairs
    )
    below = (
        square
        - n * fourth / (n - 2)
        + 2 * (2 * third - through) / (n - 2)
        + (trace**2 - 2 * trace * length + length**2) / pairs
    )
    return float(above / below) if below > 0 else None


def effective_rank_sigma(values: Eigenvalues) -> float:
    """Return exp of the entropy of sigma / sum sigma, where sigma are the singular values of the uncentered matrix.

    The value is larger than `effective_rank_lambda` if tokens are spread, and smaller if a mean direction dominates.

    Args:
        values: eigenvalues of the second moment, sigma^2 / N.

    Source: RankMe, Garrido et al. 2023 (arXiv 2210.02885), after Roy and Vetterli 2007; without its epsilon.
    Bias: downward: the value cannot exceed N, and for an isotropic cloud with N = 4 dim it is 97 % of dim.
    """
    return _exp_entropy(values.sqrt())


def effective_rank_lambda(values: Eigenvalues) -> float:
    """Return exp of the entropy of lambda / sum lambda, where lambda are the eigenvalues of the centered covariance.

    Source: Roy and Vetterli 2007, on eigenvalues as in Li et al. 2025 (arXiv 2509.23024).
    Bias: downward: the value cannot exceed N - 1, and for an isotropic cloud with N = 4 dim it is 88 % of dim.
    """
    return _exp_entropy(values)


def alpha(values: Eigenvalues, lo: int, hi: int) -> tuple[float, float]:
    """Return the decay exponent of the eigenvalues (negative slope of log lambda on log rank) and the R^2 of the fit.

    The fit is least squares with weights 1 / rank over the ranks from `lo` to `hi`. In the columns, these are 12 to
    100, or 12 to the last eigenvalue above the noise floor. With fewer than eight ranks there is no fit (flag
    `alpha_range`).

    Source: Stringer et al. 2019 (Nature 571, 361); alpha-ReQ, Agrawal et al. 2022.
    Bias: upward if N is not many times dim; the range affects the value, so compare only equal ranges.
    """
    rank = torch.arange(lo, hi + 1, device=values.device, dtype=torch.float64)
    slope, r2 = _line(rank.log(), values[lo - 1 : hi].log(), 1 / rank)
    return -slope, r2


def pca(values: Eigenvalues, share: float) -> int:
    """Return the smallest number of principal components that together carry this share of the variance.

    Source: principal component analysis.
    Bias: downward if N is not many times dim; sink tokens can reduce the number to 1.
    """
    reached = values.cumsum(0) < share * values.sum()
    return min(int(reached.sum()) + 1, len(values))


def eigenvalue_ranks(population: Population) -> list[int]:
    """Return up to 64 different ranks of eigenvalues, log-spaced from 1 to dim.

    Source: a grid.
    Bias: none.
    """
    dim = len(population.covariance)
    spaced = torch.logspace(0, float(torch.tensor(dim).double().log10()), N_LOG_SPACED, dtype=torch.float64)
    return sorted({min(rank, dim) for rank in spaced.round().int().tolist()})


def eigenvalues_at_ranks(values: Eigenvalues, ranks: list[int]) -> list[float]:
    """Return the eigenvalues of the centered covariance at `eigenvalue_ranks`.

    Source: principal component analysis.
    Bias: as `top_eigenvalues`; values below the noise floor are rounding errors.
    """
    return values[torch.tensor(ranks, device=values.device) - 1].tolist()


def marchenko_pastur_edge(population: Population) -> float:
    """Return v (1 + sqrt(dim / N))^2, where v is the mean variance of a coordinate and N the number of tokens.

    Eigenvalues above this edge are larger than any eigenvalue of isotropic noise with the same total variance.

    Source: Marchenko and Pastur 1967.
    Bias: tokens of one context are not independent, so the effective N is smaller and the edge is too low.
    """
    dim, n = len(population.covariance), population.pooled.count
    return float(population.covariance.trace()) / dim * (1 + (dim / n) ** 0.5) ** 2


def _exp_entropy(weights: Float64[Tensor, " kept"]) -> float:
    p = weights / weights.sum()
    return float(torch.special.entr(p).sum().exp())


def _line(x: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float]:
    """Return the slope and the R^2 of the weighted least-squares line; the R^2 of a constant y is 1."""
    weight = weight / weight.sum()
    x, y = x - weight @ x, y - weight @ y
    slope = (weight * x) @ y / ((weight * x) @ x)
    total = (weight * y) @ y
    residual = weight @ (y - slope * x).square()
    return float(slope), float(1 - residual / total) if total > 0 else 1.0
