"""Linearity: R^2 of the best linear map from one layer to the next (Razzhigaev et al. 2024, arXiv 2405.12250)."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.moments import Moments

COLUMNS = ("linearity", "linearity_residual")
TIMING_COLUMN = "spectrum_s"


class LinearFit(NamedTuple):
    """Centered float64 sums over the tokens of two layers."""

    cross: Float64[Tensor, "dim next"]
    target_sum_of_squares: float
    """Sum of |y - mean y|^2 of the following layer."""
    residual_sum_of_squares: float
    """Sum of |y - A x|^2 at the best A, over the same tokens."""


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; null if no layer follows.

    Also null if this or the next layer does not vary (`constant_layer`, `next_layer_constant`) or has non-finite rows
    (`nonfinite_rows`), because the two layers would then not cover the same tokens.
    """
    following = layer.moments.next_layer
    if following is None or not layer.varies:
        return dict.fromkeys(COLUMNS)
    if layer.moments.n_nonfinite or following.n_nonfinite:
        layer.flags.add("nonfinite_rows")
        return dict.fromkeys(COLUMNS)
    after = following.pooled_moments
    pair = _fit(layer, after)
    return {"linearity": linearity(layer, pair), "linearity_residual": linearity_residual(layer, after, pair)}


def linearity(layer: Layer, pair: LinearFit) -> float | None:
    """Return R^2 of the best linear map to the next layer, centered, in sample.

    Source: Razzhigaev et al. 2024 (arXiv 2405.12250), section 3.
    Bias: near 1 if the residual stream dominates; unrelated layers read dim / (N - 1), so take N >= 5 dim.
    """
    if pair.target_sum_of_squares <= 0:
        layer.flags.add("next_layer_constant")
        return None
    return 1 - pair.residual_sum_of_squares / pair.target_sum_of_squares


def linearity_residual(layer: Layer, after: Moments, pair: LinearFit) -> float | None:
    """Return R^2 of the best linear map to the increment y - x, which excludes the residual stream.

    The residual is that of `linearity`, since A - 1 is as linear as A; only the variance to explain is smaller. None
    if the widths differ (`width_changes`) or the increment is zero (`no_increment`).

    Source: Razzhigaev et al. 2024 (arXiv 2405.12250), without the residual component.
    Bias: unrelated layers read dim / (N - 1), so take N >= 5 dim.
    """
    before = layer.pooled_moments
    if len(before.shifted_sum) != len(after.shifted_sum):
        layer.flags.add("width_changes")
        return None
    variance = before.squared_deviation(before.mean)
    increments = variance + pair.target_sum_of_squares - 2 * float(pair.cross.trace())
    if increments <= len(before.shifted_sum) * 2.0**-52 * variance:
        layer.flags.add("no_increment")
        return None
    return 1 - pair.residual_sum_of_squares / increments


def _fit(layer: Layer, after: Moments) -> LinearFit:
    """Solve least squares by the eigenvectors of the covariance, without directions below the noise floor."""
    before, (values, vectors) = layer.pooled_moments, layer.covariance_eigen
    if layer.moments.cross_scatter is None or vectors is None:
        raise ValueError("no cross scatter or eigenvectors for the linear map to the next layer")
    cross = layer.moments.cross_scatter - torch.outer(before.shifted_sum, after.shifted_sum) / before.count
    usable = values > layer.eigenvalue_floor(float(values[0]))
    scaled = vectors[:, usable].T @ cross / ((before.count - 1) * values[usable]).sqrt()[:, None]
    total = after.squared_deviation(after.mean)
    return LinearFit(cross, total, max(total - float(scaled.square().sum()), 0.0))
