"""Gaussian surrogate: dimension of Gaussian points that have the covariance of the tokens other than sinks."""

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.group_estimates import Radii, estimate_columns, usable_group_radii
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.neighbors import build_exact_graph

COLUMNS = tuple(f"{name}_gaussian{end}" for name in ("id_twonn", "id_mle") for end in ("", "_se", "_groups"))
TIMING_COLUMN = "knn_s"


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group.

    All are null if the recipe does not set `surrogate`, if no group is usable (see `usable_group_radii`), or if the
    tokens other than sinks do not vary (flag `too_few_ordinary_tokens`).
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    if not layer.recipe.surrogate or not layer.ordinary_varies:
        return row
    radii = _surrogates(layer)
    return row | id_twonn_gaussian(layer, radii) | id_mle_gaussian(layer, radii)


def id_twonn_gaussian(layer: Layer, radii: list[Radii | None]) -> MetricValues:
    """Return the columns with `id_twonn` of the surrogate, its standard error and the estimate of each group.

    The value is a reference for `id_twonn` of the layer.

    Args:
        radii: neighbour distances of the surrogate of each group.

    Source: this project; a surrogate that keeps only the covariance, after Theiler et al. 1992.
    Bias: as `id_twonn`, at the surrogate's higher dimension. The covariance excludes sinks: one sink in 256 would
        stretch all points and give 29.7 where ordinary Gaussian tokens give 39.3.
    """
    return estimate_columns(layer, "id_twonn_gaussian", radii, id_twonn)


def id_mle_gaussian(layer: Layer, radii: list[Radii | None]) -> MetricValues:
    """Return the columns with `id_mle` of the surrogate, its standard error and the estimate of each group.

    Source: as `id_twonn_gaussian`.
    Bias: as `id_mle`, at the surrogate's higher dimension; sinks are left out as in `id_twonn_gaussian`.
    """
    return estimate_columns(layer, "id_mle_gaussian", radii, id_mle)


def _surrogates(layer: Layer) -> list[Radii | None]:
    """For each group, draw as many Gaussian points as it has, and return their neighbour distances.

    An item is None for a group that is unusable (see `usable_group_radii`).

    Points are drawn along the principal axes and without the mean, because distances depend on neither rotation nor
    mean. All layers of a cell use the same random numbers, so layers differ by their spectra and not by the draw.
    """
    generator = torch.Generator().manual_seed(layer.recipe.seed)
    scale = layer.ordinary.covariance_eigen.values.sqrt()

    def draw(points: int) -> Radii:
        cloud = _normal(points, len(scale), generator).to(scale.device) * scale
        return build_exact_graph(cloud, 2, layer.recipe.seed).radii

    return [None if measured is None else draw(len(measured)) for measured in usable_group_radii(layer)]


def _normal(rows: int, dim: int, generator: torch.Generator) -> Float64[Tensor, "rows dim"]:
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64)
