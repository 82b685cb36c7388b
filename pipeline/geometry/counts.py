"""Counts: what entered, what was left out and why, and whose neighbours the neighbours are."""

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.geometry.layer import Layer, Row
from pipeline.geometry.neighbors import Graph

COLUMNS = (
    "n_tokens",
    "n_sink_tokens",
    "n_points",
    "n_duplicates",
    "n_near_duplicates",
    "n_nonfinite",
    "n_unresolved",
    "same_context_share",
    "same_token_share",
    "noise_ratio",
)
QUANTISED = 0.03
"""Above this noise ratio the rounding of the activations moves the dimension by percents."""


def measure(layer: Layer) -> Row:
    """The columns of this group; also flags `nonfinite_rows`, `unresolved_points` and `quantised`."""
    graphs = layer.graphs
    row: Row = {
        "n_tokens": layer.all.count,
        "n_sink_tokens": sum(sinks.count for sinks in layer.moments.sinks),
        "n_points": sum(len(g.kept) for g in graphs),
        "n_duplicates": sum(g.n_duplicates for g in graphs),
        "n_near_duplicates": sum(g.n_near_duplicates for g in graphs),
        "n_nonfinite": sum(g.n_nonfinite for g in graphs),
        "n_unresolved": sum(g.n_unresolved for g in graphs),
        "same_context_share": same_context_share(layer),
        "same_token_share": same_token_share(layer),
        "noise_ratio": noise_ratio(layer),
    }
    if row["n_nonfinite"] or layer.moments.n_nonfinite:
        layer.flags.add("nonfinite_rows")
    if row["n_unresolved"]:
        layer.flags.add("unresolved_points")
    return row


def same_context_share(layer: Layer) -> float | None:
    """Share of first and second neighbours from the point's own context; null without context ids.

    A high share says that the dimension measured is that of single contexts.
    """
    if not layer.cloud.has_contexts:
        layer.flags.add("no_contexts")
        return None
    return _share(layer, layer.cloud.context)


def same_token_share(layer: Layer) -> float | None:
    """Share of first and second neighbours with the point's own token id; null without token ids."""
    if not layer.cloud.has_tokens:
        layer.flags.add("no_token_ids")
        return None
    return _share(layer, layer.cloud.token)


def noise_ratio(layer: Layer) -> float | None:
    """Median of unit * |x| / r1: how much of the nearest distance may be rounding of the activations."""
    ratios = [g.noise / g.distances[:, 0] for g in layer.graphs if g.distances.shape[1]]
    if not ratios:
        layer.flags.add("too_few_points")
        return None
    ratio = float(torch.cat(ratios).median())
    if ratio > QUANTISED:
        layer.flags.add("quantised")
    return ratio


def _share(layer: Layer, labels: Int[Tensor, " points"]) -> float | None:
    same = [_same(graph, labels[members]) for graph, members in zip(layer.graphs, layer.members, strict=True)]
    pairs = torch.cat(same) if same else torch.zeros(0)
    if not pairs.numel():
        layer.flags.add("too_few_points")
        return None
    return float(pairs.double().mean())


def _same(graph: Graph, labels: Int[Tensor, " members"]) -> Tensor:
    own = labels[graph.kept]
    return (own[graph.indices[:, :2]] == own[:, None]).flatten()
