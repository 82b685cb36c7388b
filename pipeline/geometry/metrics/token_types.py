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
    """Return the columns of this group; all are null without token ids (flag `no_token_ids`).

    The dimensions are also null if no group has 100 token types (flag `too_few_types`), or if the distances to the two
    nearest neighbours are equal at every point (flag `tied_distances`).
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
    """Return the number of distinct token ids among the points of a group, summed over groups.

    Args:
        graphs: for each group, the graph of one point per token id.

    Source: a count.
    Bias: none.
    """
    return sum(len(graph.point_indices) for graph in graphs)


def id_twonn_types(radii: Tensor) -> float:
    """Return `id_twonn` on at most one point per token id and group.

    If the value exceeds `id_twonn`, then `id_twonn` is partly the dimension of clusters of one token. The point of each
    token id is drawn with the recipe's seed; as far as possible, it is the same in every layer and checkpoint.

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
    """For each group, return its graph restricted to one point per token id.

    This is the point that comes first, among those with its token id, in a random order of all points of the cloud.
    """
    generator = torch.Generator().manual_seed(layer.recipe.seed)
    order = torch.randperm(len(layer.cloud), generator=generator).to(layer.cloud.token_ids.device)
    return [
        restrict_graph(graph, _one_per_type(graph, order[members], layer.cloud.token_ids[members]), NEIGHBORS)
        for graph, members in zip(layer.dimension_graphs, layer.group_members, strict=True)
    ]


def _one_per_type(
    graph: NeighborGraph, order: Int[Tensor, " members"], tokens: Int[Tensor, " members"]
) -> Bool[Tensor, " kept"]:
    """Return a mask over the kept points of the graph that is True for one point per token id.

    Among the kept points with one token id, this is the point with the smallest number in `order`.

    Args:
        order: a different random number for each point of the group.
        tokens: token id of each point of the group.
    """
    ranked = order[graph.point_indices].argsort()
    chosen = torch.zeros_like(graph.resolved)
    chosen[ranked[first_of_each(tokens[graph.point_indices][ranked])]] = True
    return chosen
