"""Dimension with at most one point per token type: the control for neighbours that are the same token."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.geometry.chunking import first_of_each
from pipeline.geometry.group_estimates import estimate_columns, usable_radii
from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.neighbors import NeighborGraph, restrict_graph

COLUMNS = ("n_types", *(f"{name}_types{end}" for name in ("id_twonn", "id_mle") for end in ("", "_se", "_groups")))
TIMING_COLUMN = "knn_s"
NEIGHBORS = 2


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; null without token ids (`no_token_ids`).

    The dimensions are also null if no group has 100 token types (`too_few_types`), or if all distances are tied
    (`tied_distances`).
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    if not layer.cloud.has_token_ids:
        layer.flags.add("no_token_ids")
        return row
    graphs = _graphs_of_types(layer)
    radii = usable_radii(layer, graphs, none="too_few_types", some="group_too_small")
    row["n_types"] = n_types(graphs)
    row |= estimate_columns(layer, "id_twonn_types", radii, id_twonn_types)
    return row | estimate_columns(layer, "id_mle_types", radii, id_mle_types)


def n_types(graphs: list[NeighborGraph]) -> int:
    """Return the number of different token ids among the points of each group, summed over groups.

    Source: a count.
    Bias: none.
    """
    return sum(len(graph.point_indices) for graph in graphs)


def id_twonn_types(radii: Tensor) -> float:
    """Return `id_twonn` on at most one point per token id and group.

    If the value exceeds `id_twonn`, the latter is partly the dimension of clusters of one token. The point of each id
    is drawn with the recipe's seed, as far as possible the same point in every layer and checkpoint.

    Source: this project.
    Bias: as `id_twonn`, with fewer points and thus at a larger scale.
    """
    return id_twonn(radii)


def id_mle_types(radii: Tensor) -> float:
    """Return `id_mle` on at most one point per token id and group.

    Source: this project.
    Bias: as `id_mle`, with fewer points and thus at a larger scale.
    """
    return id_mle(radii)


def _graphs_of_types(layer: Layer) -> list[NeighborGraph]:
    """Return the graph of each group on one point per token id: the first in a random order of all points."""
    generator = torch.Generator().manual_seed(layer.recipe.seed)
    order = torch.randperm(len(layer.cloud), generator=generator).to(layer.cloud.token_ids.device)
    return [
        restrict_graph(graph, _one_per_type(graph, order[members], layer.cloud.token_ids[members]), NEIGHBORS)
        for graph, members in zip(layer.dimension_graphs, layer.group_members, strict=True)
    ]


def _one_per_type(
    graph: NeighborGraph, order: Int[Tensor, " members"], tokens: Int[Tensor, " members"]
) -> Bool[Tensor, " kept"]:
    """Return the mask of the graph's points that come first in `order` among the points with their token id."""
    ranked = order[graph.point_indices].argsort()
    chosen = torch.zeros_like(graph.resolved)
    chosen[ranked[first_of_each(tokens[graph.point_indices][ranked])]] = True
    return chosen
