"""Counts of used and excluded tokens and points, and shares of neighbours with the same context or token."""

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.geometry.layer import Layer, MetricValues
from pipeline.geometry.neighbors import NeighborGraph

COLUMNS = (
    *("n_tokens", "n_sink_tokens", "n_layer_sink_tokens", "n_points"),
    *("n_duplicates", "n_near_duplicates", "n_nonfinite", "n_unresolved"),
    *("same_context_share", "same_token_share", "noise_ratio"),
)
TIMING_COLUMN = "knn_s"
QUANTISED_NOISE_RATIO = 0.03
"""Noise ratio above which rounding of the activations changes the dimension by several percent."""


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; may set the flags `nonfinite_rows`, `unresolved_points` and `quantised`."""
    row: MetricValues = {
        "n_tokens": n_tokens(layer),
        "n_sink_tokens": n_sink_tokens(layer),
        "n_layer_sink_tokens": n_layer_sink_tokens(layer),
        "n_points": n_points(layer),
        "n_duplicates": n_duplicates(layer),
        "n_near_duplicates": n_near_duplicates(layer),
        "n_nonfinite": n_nonfinite(layer),
        "n_unresolved": n_unresolved(layer),
        "same_context_share": same_context_share(layer),
        "same_token_share": same_token_share(layer),
        "noise_ratio": noise_ratio(layer),
    }
    if row["n_nonfinite"] or layer.moments.n_nonfinite:
        layer.flags.add("nonfinite_rows")
    if row["n_unresolved"]:
        layer.flags.add("unresolved_points")
    return row


def n_tokens(layer: Layer) -> int:
    """Return the number of finite rows in the moments.

    Source: a count.
    Bias: none.
    """
    return layer.every.pooled.count


def n_sink_tokens(layer: Layer) -> int:
    """Return the number of finite sink tokens of the cell: a token is a sink in all layers of the cell or in none.

    A token is a sink if it is the first of its context or if its norm exceeds `sink_multiple` pilot norms in any block.

    Source: this project; such tokens have the massive activations of Sun et al. 2024 (arXiv 2402.17762).
    Bias: the pilot norm is the median of the first 512 tokens, not of all tokens.
    """
    return layer.moments.sink_sums.count


def n_layer_sink_tokens(layer: Layer) -> int:
    """Return the number of finite tokens that are sinks by this layer alone.

    These are the tokens that are the first of their context or have a norm of more than `sink_multiple` pilot norms.

    Source: as `n_sink_tokens`, for one layer.
    Bias: as `n_sink_tokens`; a token just below the limit in one layer may be above it in the next.
    """
    return layer.moments.n_layer_sinks


def n_points(layer: Layer) -> int:
    """Return the number of points in the k-NN graphs of all groups.

    Source: a count.
    Bias: none.
    """
    return sum(len(g.point_indices) for g in layer.dimension_graphs)


def n_duplicates(layer: Layer) -> int:
    """Return the number of points removed because they equal an earlier point of the group in every coordinate.

    Source: a count; points are removed because Facco et al. 2017 assume distinct points.
    Bias: none.
    """
    return sum(g.n_duplicates for g in layer.dimension_graphs)


def n_near_duplicates(layer: Layer) -> int:
    """Return the number of points removed because their distance from an earlier point is within rounding.

    For a point x, this is a distance of at most min(32 u |x|, 0.02 median r1), where u is the rounding unit of the
    dtype and r1 the distance to the nearest neighbour.

    Source: this project.
    Bias: distinct points at such distances are removed too.
    """
    return sum(g.n_near_duplicates for g in layer.dimension_graphs)


def n_nonfinite(layer: Layer) -> int:
    """Return the number of points in the cloud that contain NaN or infinity.

    Source: a count.
    Bias: none.
    """
    return sum(g.n_nonfinite for g in layer.dimension_graphs)


def n_unresolved(layer: Layer) -> int:
    """Return the number of points whose neighbours could not be certified as exact.

    All estimates of the dimension except `id_authors` leave these points out.

    Source: this project.
    Bias: none.
    """
    return sum(g.n_unresolved for g in layer.dimension_graphs)


def same_context_share(layer: Layer) -> float | None:
    """Return the share of the first and second neighbours that come from the same context as their point.

    A high share means that the measured dimension is that of single contexts. The share is None without context ids
    (flag `no_contexts`) or without points (flag `too_few_points`).

    Source: this project; for the two regimes of nearest-neighbour dimensions see Osman et al. 2026 (arXiv 2608.14361).
    Bias: none, but the share itself falls if a group has more contexts with fewer points each.
    """
    if not layer.cloud.has_context_ids:
        layer.flags.add("no_contexts")
        return None
    return _share(layer, layer.cloud.context_ids)


def same_token_share(layer: Layer) -> float | None:
    """Return the share of the first and second neighbours whose token id is that of the point itself.

    The share is None without token ids (flag `no_token_ids`) or without points (flag `too_few_points`).

    Source: this project.
    Bias: none, but the share itself grows with the number of points.
    """
    if not layer.cloud.has_token_ids:
        layer.flags.add("no_token_ids")
        return None
    return _share(layer, layer.cloud.token_ids)


def noise_ratio(layer: Layer) -> float | None:
    """Return the median over points x of u |x| / r1, the share of r1 that may be due to rounding of the activations.

    u is the rounding unit of the dtype, and r1 the distance to the nearest neighbour. A ratio above
    QUANTISED_NOISE_RATIO sets the flag `quantised`.

    Source: this project.
    Bias: upward by about sqrt(3), because the bound of the rounding error is used instead of its standard deviation.
    """
    ratios = [g.rounding_noise / g.distances[:, 0] for g in layer.dimension_graphs if g.distances.shape[1]]
    if not ratios:
        layer.flags.add("too_few_points")
        return None
    ratio = float(torch.cat(ratios).median())
    if ratio > QUANTISED_NOISE_RATIO:
        layer.flags.add("quantised")
    return ratio


def _share(layer: Layer, labels: Int[Tensor, " points"]) -> float | None:
    same = [
        _has_equal_label(graph, labels[members])
        for graph, members in zip(layer.dimension_graphs, layer.group_members, strict=True)
    ]
    pairs = torch.cat(same) if same else torch.zeros(0)
    if not pairs.numel():
        layer.flags.add("too_few_points")
        return None
    return float(pairs.double().mean())


def _has_equal_label(graph: NeighborGraph, labels: Int[Tensor, " members"]) -> Tensor:
    own = labels[graph.point_indices]
    return (own[graph.indices[:, :2]] == own[:, None]).flatten()
