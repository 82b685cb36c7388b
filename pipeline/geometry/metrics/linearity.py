"""Linearity: R^2 of the best linear map from one layer to the next (Razzhigaev et al. 2024, arXiv 2405.12250)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.jackknife import jackknife_columns
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.moments import Moments, merge_without
from pipeline.geometry.population import Population

COLUMNS = (
    *(f"linearity{suffix}{end}" for suffix in ("", "_no_sink") for end in ("", "_se", "_groups")),
    "linearity_residual",
)
TIMING_COLUMN = "spectrum_s"
TOKENS_PER_DIM = 5
"""Number of tokens per dimension below which the in-sample R^2 of two unrelated layers exceeds 0.2; fewer set the flag
`few_tokens_per_dim`."""


@dataclass(frozen=True)
class LinearFit:
    """Best linear map A from centered rows x to centered rows y of the next layer, with float64 sums over tokens."""

    weights: Float64[Tensor, "dim next"]
    """Map A, restricted to directions of x above the noise floor."""
    cross: Float64[Tensor, "dim next"]
    """Sum of x y^T."""
    target_sum_of_squares: float
    """Sum of |y - mean y|^2."""
    residual_sum_of_squares: float
    """Sum of |y - A x|^2 over the same tokens."""


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group.

    All are null if no layer follows, or if this layer does not vary (flag `constant_layer` or `too_few_tokens`). They
    are also null if one of the two layers has non-finite rows (flag `nonfinite_rows`), because the layers then do not
    cover the same tokens. The `linearity` columns are also null if the next layer does not vary (flag
    `next_layer_constant`), and those with `_no_sink` if the tokens other than sinks do not vary (flag
    `too_few_ordinary_tokens`).
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    following = layer.moments.next_layer
    if following is None or not layer.varies:
        return row
    if layer.moments.n_nonfinite or following.n_nonfinite:
        layer.flags.add("nonfinite_rows")
        return row
    if layer.every.pooled.count < TOKENS_PER_DIM * len(layer.every.covariance):
        layer.flags.add("few_tokens_per_dim")
    after = {"": following.every, "_no_sink": following.ordinary}
    for suffix, population in layer.populations.items():
        target = after[suffix].moments
        fit = _fit(population, after[suffix].pooled)
        value = linearity(layer, fit)
        without = [] if value is None else linearity_groups(population, fit, target)
        row |= jackknife_columns(f"linearity{suffix}", value, without)
        if not suffix:
            row["linearity_residual"] = linearity_residual(layer, following.every.pooled, fit)
    return row


def linearity(layer: Layer, fit: LinearFit) -> float | None:
    """Return the in-sample R^2 of the best linear map from this layer to the next one, on centered rows.

    It is None if the next layer is constant (flag `next_layer_constant`).

    Source: Razzhigaev et al. 2024 (arXiv 2405.12250), section 3.
    Bias: near 1 if the residual stream or a few sink tokens dominate (`_no_sink` excludes sinks); for unrelated layers
        the value is dim / (N - 1), so use N >= 5 dim (flag `few_tokens_per_dim` below that).
    """
    if fit.target_sum_of_squares <= 0:
        layer.flags.add("next_layer_constant")
        return None
    return 1 - fit.residual_sum_of_squares / fit.target_sum_of_squares


def linearity_groups(population: Population, fit: LinearFit, target: list[Moments]) -> list[float | None]:
    """Return `linearity` with one group of contexts left out at a time, to first order, one value per group.

    The map stays the one that is fitted to all groups. The derivative of the residual with respect to the best map is
    zero, so this causes an error of only second order. A value is None if this or the next layer does not vary over the
    other groups.

    Source: delete-a-group jackknife over disjoint groups of contexts.
    Bias: as `linearity`.
    """
    whole, crosses = population.sums.pooled_cross_scatter, population.sums.cross_scatters
    return [
        None if before is None else _r2(fit.weights, before, merge_without(target, index), whole - crosses[index])
        for index, before in enumerate(population.without_each_group())
    ]


def linearity_residual(layer: Layer, after: Moments, fit: LinearFit) -> float | None:
    """Return R^2 of the best linear map from x to the increment y - x, which excludes the residual stream.

    The residual is that of `linearity`, because A - 1 is as linear as A; only the variance to be explained is now that
    of the increment. The result is None if the two layers have different widths (flag `width_changes`) or the
    increment is zero (flag `no_increment`).

    Args:
        after: moments of y, the next layer, over all tokens.
        fit: map A from x to y over all tokens.

    Source: Razzhigaev et al. 2024 (arXiv 2405.12250), without the residual component.
    Bias: for unrelated layers the value is dim / (N - 1), so use N >= 5 dim.
    """
    before = layer.every.pooled
    if len(before.shifted_sum) != len(after.shifted_sum):
        layer.flags.add("width_changes")
        return None
    variance = before.squared_deviation(before.mean)
    increments = variance + fit.target_sum_of_squares - 2 * float(fit.cross.trace())
    if increments <= len(before.shifted_sum) * 2.0**-52 * variance:
        layer.flags.add("no_increment")
        return None
    return 1 - fit.residual_sum_of_squares / increments


def _fit(population: Population, after: Moments) -> LinearFit:
    """Return the least-squares map, computed from the eigenvectors of the covariance above the noise floor."""
    before, (values, vectors) = population.pooled, population.covariance_eigen
    assert vectors is not None, "a layer with a next layer has eigenvectors"
    cross = _centered_cross(population.sums.pooled_cross_scatter, before, after)
    n_usable = population.count_above_floor(values)
    basis, scale = vectors[:, :n_usable], (before.count - 1) * values[:n_usable]
    projected = basis.T @ cross
    total = after.squared_deviation(after.mean)
    explained = float((projected.square() / scale[:, None]).sum())
    return LinearFit(basis @ (projected / scale[:, None]), cross, total, max(total - explained, 0.0))


def _r2(weights: Tensor, before: Moments, after: Moments, cross_scatter: Tensor) -> float | None:
    """Return R^2 of the map `weights` on the tokens of these moments; None if the target does not vary."""
    total = after.squared_deviation(after.mean) if after.count else 0.0
    if total <= 0:
        return None
    cross = _centered_cross(cross_scatter, before, after)
    scatter = before.covariance() * (before.count - 1)
    return float(2 * (weights * cross).sum() - (weights * (scatter @ weights)).sum()) / total


def _centered_cross(cross_scatter: Tensor, before: Moments, after: Moments) -> Float64[Tensor, "dim next"]:
    return cross_scatter - torch.outer(before.shifted_sum, after.shifted_sum) / before.count
