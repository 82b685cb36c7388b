"""Spectrum: largest eigenvalues, participation ratio, effective ranks and decay exponent.

Effective ranks and alpha use only eigenvalues above the layer's noise floor; the flag `spectrum_floor` is set if that
leaves any out.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.moments import Moments

ALPHA_COLUMNS = ("alpha", "alpha_r2", "alpha_lo", "alpha_hi")
COLUMNS = (
    *("top_eigenvalues", "participation_ratio", "participation_ratio_corrected"),
    *("effective_rank_sigma", "effective_rank_lambda", *ALPHA_COLUMNS),
)
TIMING_COLUMN = "spectrum_s"
N_TOP_EIGENVALUES = 32
ALPHA_RANKS = (12, 100)
ALPHA_MIN_RANKS = 8


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; null if the layer does not vary (`constant_layer`, `too_few_tokens`)."""
    if not layer.varies:
        return dict.fromkeys(COLUMNS)
    row: MetricValues = {
        "top_eigenvalues": top_eigenvalues(layer),
        "participation_ratio": participation_ratio(layer),
        "participation_ratio_corrected": participation_ratio_corrected(layer.pooled_moments),
        "effective_rank_sigma": effective_rank_sigma(layer),
        "effective_rank_lambda": effective_rank_lambda(layer),
        **dict(zip(ALPHA_COLUMNS, alpha(layer), strict=True)),
    }
    if row["participation_ratio_corrected"] is None:
        layer.flags.add("too_few_tokens")
    return row


def top_eigenvalues(layer: Layer) -> list[float]:
    """Return the 32 largest eigenvalues of the centered covariance, or all if there are fewer.

    Source: principal component analysis.
    Bias: upward for a spike l among unit variances, l (1 + g / (l - 1)) with g = dim / N; downward for small ones.
    """
    return layer.covariance_eigen.values[:N_TOP_EIGENVALUES].tolist()


def participation_ratio(layer: Layer) -> float:
    """Return (sum lambda)^2 / sum lambda^2, centered; IsoScore is (PR - 1) / (dim - 1).

    Source: Gao et al. 2017 (bioRxiv 214262).
    Bias: 1/PR is too large by about 1/N, so PR is too small; see `participation_ratio_corrected`.
    """
    return float(layer.covariance.trace().square() / layer.covariance.square().sum())


def participation_ratio_corrected(moments: Moments) -> float | None:
    """Return the ratio of unbiased estimates of (sum lambda)^2 and sum lambda^2.

    Both are averages over four different tokens, computed from sums about the shift. None with fewer than four tokens
    or if the estimate of the denominator is not positive.

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


def effective_rank_sigma(layer: Layer) -> float:
    """Return exp of the entropy of sigma / sum sigma, sigma the singular values of the uncentered matrix.

    Larger than `effective_rank_lambda` if tokens are spread, smaller if a mean direction dominates.

    Source: RankMe, Garrido et al. 2023 (arXiv 2210.02885), after Roy and Vetterli 2007; without its epsilon.
    Bias: downward: the value cannot exceed N, and an isotropic cloud with N = 4 dim reads 97 % of dim.
    """
    return _exp_entropy(_above_floor(layer, layer.second_moment_eigen.values).sqrt())


def effective_rank_lambda(layer: Layer) -> float:
    """Return exp of the entropy of lambda / sum lambda, centered.

    Source: Roy and Vetterli 2007, on eigenvalues as in Li et al. 2025 (arXiv 2509.23024).
    Bias: downward: the value cannot exceed N - 1, and an isotropic cloud with N = 4 dim reads 88 % of dim.
    """
    return _exp_entropy(_above_floor(layer, layer.covariance_eigen.values))


def alpha(layer: Layer) -> tuple[float, float, int, int] | tuple[None, None, None, None]:
    """Return the decay exponent (negative slope of log lambda on log rank), its R^2, first and last rank of the fit.

    Least squares with weights 1 / rank over ranks 12..100, or up to the last eigenvalue above the noise floor; None
    with fewer than eight ranks (`alpha_range`).

    Source: Stringer et al. 2019 (Nature 571, 361); alpha-ReQ, Agrawal et al. 2022.
    Bias: upward if N is not many times dim; the range affects the value, so compare equal ranges only.
    """
    values = _above_floor(layer, layer.covariance_eigen.values)
    lo, hi = ALPHA_RANKS[0], min(ALPHA_RANKS[1], len(values))
    if hi - lo + 1 < ALPHA_MIN_RANKS:
        layer.flags.add("alpha_range")
        return None, None, None, None
    rank = torch.arange(lo, hi + 1, device=values.device, dtype=torch.float64)
    slope, r2 = _line(rank.log(), values[lo - 1 : hi].log(), 1 / rank)
    return -slope, r2, lo, hi


def _above_floor(layer: Layer, values: Float64[Tensor, " dim"]) -> Float64[Tensor, " kept"]:
    kept = values[values > layer.eigenvalue_floor(float(values[0]))]
    if len(kept) < len(values):
        layer.flags.add("spectrum_floor")
    return kept


def _exp_entropy(weights: Float64[Tensor, " kept"]) -> float:
    p = weights / weights.sum()
    return float(torch.special.entr(p).sum().exp())


def _line(x: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float]:
    """Return slope and R^2 of the weighted least-squares line; R^2 of a constant y is 1."""
    weight = weight / weight.sum()
    x, y = x - weight @ x, y - weight @ y
    slope = (weight * x) @ y / ((weight * x) @ x)
    total = (weight * y) @ y
    residual = weight @ (y - slope * x).square()
    return float(slope), float(1 - residual / total) if total > 0 else 1.0
