"""The spectrum beyond its first value: how many dimensions carry the variance, and how fast it decays.

Effective ranks and alpha use eigenvalues above the noise floor only, the larger of `dim * 2^-52 * lambda_1` (what a
float64 decomposition resolves; `2^-20 * lambda_1` where products run in float32) and `unit^2 * median_j E[x_j^2] / 3`
(the variance of rounding the activations to their dtype). Where that leaves any out, the flag is `spectrum_floor`.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.arithmetic import UNIT_ROUNDOFF, product_dtype
from pipeline.geometry.layer import Layer, Row
from pipeline.geometry.moments import Moments

COLUMNS = (
    "top_eigenvalues",
    "participation_ratio",
    "participation_ratio_corrected",
    "effective_rank_sigma",
    "effective_rank_lambda",
    "alpha",
    "alpha_r2",
    "alpha_lo",
    "alpha_hi",
)
TOP = 32
ALPHA_RANKS = (12, 100)
ALPHA_MIN_RANKS = 8


def measure(layer: Layer) -> Row:
    """The columns of this group; null on a layer that does not vary (`constant_layer`, `too_few_tokens`)."""
    if not layer.varies:
        return dict.fromkeys(COLUMNS)
    row: Row = {
        "top_eigenvalues": layer.centered.values[:TOP].tolist(),
        "participation_ratio": participation_ratio(layer),
        "participation_ratio_corrected": participation_ratio_corrected(layer.all),
        "effective_rank_sigma": effective_rank_sigma(layer),
        "effective_rank_lambda": effective_rank_lambda(layer),
        **dict(zip(("alpha", "alpha_r2", "alpha_lo", "alpha_hi"), alpha(layer), strict=True)),
    }
    if row["participation_ratio_corrected"] is None:
        layer.flags.add("too_few_tokens")
    return row


def participation_ratio(layer: Layer) -> float:
    """(sum lambda)^2 / sum lambda^2, centered. Bias: 1/PR is too large by about 1/N.

    IsoScore is (PR - 1) / (dim - 1).
    """
    return float(layer.covariance.trace().square() / layer.covariance.square().sum())


def participation_ratio_corrected(moments: Moments) -> float | None:
    """The ratio of unbiased estimates of (sum lambda)^2 and sum lambda^2 (Chun et al. 2026, row-corrected).

    Averages over four different tokens each, from sums about the shift; null with fewer than four tokens, or where
    the estimate of the denominator is not positive. Tokens of one context are not independent, so some bias is left.
    """
    n, s, t = moments.count, moments.scatter, moments.total
    if n < 4:
        return None
    trace, length, fourth, third = s.trace(), t @ t, moments.fourth, t @ moments.third
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
    """exp of the entropy of sigma / sum sigma, sigma the singular values of the uncentered matrix.

    RankMe (Garrido et al. 2023; Roy and Vetterli 2007) without its epsilon. Larger than `effective_rank_lambda` where
    tokens are spread, smaller where a mean direction dominates.
    """
    return _exp_entropy(_above_floor(layer, layer.uncentered.values).sqrt())


def effective_rank_lambda(layer: Layer) -> float:
    """exp of the entropy of lambda / sum lambda, centered (the convention of Li et al. 2025)."""
    return _exp_entropy(_above_floor(layer, layer.centered.values))


def alpha(layer: Layer) -> tuple[float, float, int, int] | tuple[None, None, None, None]:
    """Decay exponent: minus the slope of log lambda on log rank, its R^2, first and last rank of the fit.

    Least squares with weights 1 / rank on ranks 12..100 (Stringer et al. 2019; alpha-ReQ), or up to the last
    eigenvalue above the floor; null with fewer than eight ranks (`alpha_range`). The range changes the value: compare
    equal ranges only.
    """
    values = _above_floor(layer, layer.centered.values)
    lo, hi = ALPHA_RANKS[0], min(ALPHA_RANKS[1], len(values))
    if hi - lo + 1 < ALPHA_MIN_RANKS:
        layer.flags.add("alpha_range")
        return None, None, None, None
    rank = torch.arange(lo, hi + 1, device=values.device, dtype=torch.float64)
    slope, r2 = _line(rank.log(), values[lo - 1 : hi].log(), 1 / rank)
    return -slope, r2, lo, hi


def floor(layer: Layer, largest: float) -> float:
    """Eigenvalues below this are noise; see the module's docstring."""
    dim, device = len(layer.covariance), layer.covariance.device
    resolution = dim * 2.0**-52 if product_dtype(device) == torch.float64 else 2.0**-20
    rounding = UNIT_ROUNDOFF[layer.moments.dtype] ** 2 * float(layer.second_moment.diagonal().median()) / 3
    return max(resolution * largest, rounding)


def _above_floor(layer: Layer, values: Float64[Tensor, " dim"]) -> Float64[Tensor, " kept"]:
    kept = values[values > floor(layer, float(values[0]))]
    if len(kept) < len(values):
        layer.flags.add("spectrum_floor")
    return kept


def _exp_entropy(weights: Float64[Tensor, " kept"]) -> float:
    p = weights / weights.sum()
    return float(torch.special.entr(p).sum().exp())


def _line(x: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float]:
    """Slope and R^2 of the weighted least-squares line; a constant y is fitted perfectly."""
    weight = weight / weight.sum()
    x, y = x - weight @ x, y - weight @ y
    slope = (weight * x) @ y / ((weight * x) @ x)
    total = (weight * y) @ y
    residual = weight @ (y - slope * x).square()
    return float(slope), float(1 - residual / total) if total > 0 else 1.0
