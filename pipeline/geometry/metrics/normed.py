"""Geometry of the points after the input norm of the next block. In post-norm models, the points are unchanged.

A comparison of a pre-norm with a post-norm model needs these columns, because the residual stream of a pre-norm model
is not normalised.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor

from pipeline.geometry.accumulator import DirectionSums, TokenSums
from pipeline.geometry.group_estimates import estimate_columns, usable_radii
from pipeline.geometry.jackknife import jackknife_columns, leave_one_out
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.metrics.anisotropy import anisotropy
from pipeline.geometry.metrics.dimension import id_twonn
from pipeline.geometry.metrics.norms import cosine_mean, whole_and_without
from pipeline.geometry.moments import Moments
from pipeline.geometry.neighbors import build_exact_graph, drop_near_duplicates
from pipeline.geometry.population import Population
from pipeline.geometry.row_norms import RowNorms

COLUMNS = tuple(
    f"{name}_normed{end}" for name in ("anisotropy", "cosine_mean", "id_twonn") for end in ("", "_se", "_groups")
)
TIMING_COLUMN = "knn_s"
NEIGHBORS = 2


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; all are null if no block follows.

    Anisotropy and cosine are also null if the finite points do not vary, and the dimension if no group has 100 distinct
    points. Both cases set the flag `too_few_normed_points`.
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    if layer.read_by_next is None:
        return row
    groups = [layer.read_by_next(layer.cloud.points[members]) for members in layer.group_members]
    row |= id_twonn_normed(layer, groups)
    finite = [points[points.isfinite().all(1)] for points in groups]
    population = _population(finite) if sum(map(len, finite)) else None
    if population is None or not population.is_spread(population.pooled):
        layer.flags.add("too_few_normed_points")
        return row
    return row | anisotropy_normed(population) | cosine_mean_normed(population)


def anisotropy_normed(population: Population) -> MetricValues:
    """Return the columns with `anisotropy` of the normed points, its standard error and leave-one-group-out values.

    Source: this project; for pre-norm blocks see Xiong et al. 2020 (arXiv 2002.04745).
    Bias: as `anisotropy`, with the number of points for N. After the norm, sinks are as long as other tokens.
    """
    without = leave_one_out(anisotropy, population.without_each_group())
    return jackknife_columns("anisotropy_normed", anisotropy(population.pooled), without)


def cosine_mean_normed(population: Population) -> MetricValues:
    """Return the columns with `cosine_mean` of the normed points, its standard error and leave-one-group-out values.

    Source: as `anisotropy_normed`.
    Bias: as `cosine_mean`.
    """
    return jackknife_columns("cosine_mean_normed", *whole_and_without(population, cosine_mean))


def id_twonn_normed(layer: Layer, groups: list[Tensor]) -> MetricValues:
    """Return the columns with `id_twonn` of the normed points, its standard error and the estimate of each group.

    Args:
        groups: normed points `[points, dim]` of each group.

    Source: as `anisotropy_normed`.
    Bias: as `id_twonn`.
    """
    seed = layer.recipe.seed
    graphs = [drop_near_duplicates(build_exact_graph(p, NEIGHBORS, seed), NEIGHBORS, seed) for p in groups]
    radii = usable_radii(layer, graphs, none="too_few_normed_points", some="group_too_small")
    return estimate_columns(layer, "id_twonn_normed", radii, id_twonn)


def _population(groups: list[Tensor]) -> Population:
    """Return the population of the finite points, with float64 sums about their mean for each group."""
    shift = torch.cat(groups).to(torch.float64).mean(0)
    moments = [Moments.empty(shift) for _ in groups]
    for sums, points in zip(moments, groups, strict=True):
        sums.add_rows(points)
    directions = [_directions(points.to(torch.float64)) for points in groups]
    return Population(TokenSums(moments, directions, []), groups[0].dtype)


def _directions(points: Shaped[Tensor, "points dim"]) -> DirectionSums:
    rows = RowNorms.of(points)
    return DirectionSums((rows.norms > 0).sum(), rows.norms.sum(), rows.inverse @ points)
