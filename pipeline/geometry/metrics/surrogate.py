"""Gaussian surrogate: dimension of Gaussian points with the layer's covariance, the part due to the spectrum."""

from collections.abc import Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.group_estimates import Radii, mean_over_groups, usable_group_radii
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.neighbors import build_exact_graph

COLUMNS = ("id_twonn_gaussian", "id_twonn_gaussian_se", "id_mle_gaussian", "id_mle_gaussian_se")
TIMING_COLUMN = "knn_s"


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; null without `surrogate` in the recipe or without a measurable group."""
    row: MetricValues = dict.fromkeys(COLUMNS)
    if not layer.recipe.surrogate or not layer.varies:
        return row
    radii = list(_surrogates(layer))
    if not radii:
        return row
    row["id_twonn_gaussian"], row["id_twonn_gaussian_se"] = id_twonn_gaussian(layer, radii)
    row["id_mle_gaussian"], row["id_mle_gaussian_se"] = id_mle_gaussian(layer, radii)
    return row


def id_twonn_gaussian(layer: Layer, radii: list[Radii]) -> tuple[float | None, float | None]:
    """Return `id_twonn` of the surrogate and its standard error over groups, as a reference for the layer's value.

    Source: this project; a surrogate that keeps the covariance alone, after Theiler et al. 1992.
    Bias: as `id_twonn`, at the surrogate's higher dimension; sinks stretch the surrogate as they do the layer.
    """
    return mean_over_groups(layer, [id_twonn(r) for r in radii])


def id_mle_gaussian(layer: Layer, radii: list[Radii]) -> tuple[float | None, float | None]:
    """Return `id_mle` of the surrogate and its standard error over groups.

    Source: as `id_twonn_gaussian`.
    Bias: as `id_mle`, at the surrogate's higher dimension; sinks stretch the surrogate as they do the layer.
    """
    return mean_over_groups(layer, [id_mle(r) for r in radii])


def _surrogates(layer: Layer) -> Iterator[Radii]:
    """Yield first and second neighbour distances of one Gaussian cloud per measurable group, with as many points.

    Points are drawn in the principal axes without the mean, since distances depend on neither. Every layer of a cell
    uses the same normal deviates, so layers differ by their spectra and not by the draw.
    """
    generator = torch.Generator().manual_seed(layer.recipe.seed)
    scale = layer.covariance_eigen.values.sqrt()
    for measured in usable_group_radii(layer):
        points = _normal(len(measured), len(scale), generator).to(scale.device) * scale
        yield build_exact_graph(points, 2, layer.recipe.seed).radii


def _normal(rows: int, dim: int, generator: torch.Generator) -> Float64[Tensor, "rows dim"]:
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64)
