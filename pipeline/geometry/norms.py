"""Lengths and directions: how long tokens are, how far they point the same way, which coordinates stand out."""

import torch

from pipeline.geometry.layer import Layer, Row

COLUMNS = ("cosine_mean", "norm_mean", "norm_median", "norm_max", "abs_max", "top_dims", "top_dims_share")
TOP_DIMS = 3


def measure(layer: Layer) -> Row:
    """The columns of this group; null without tokens (`too_few_tokens`) or variance (`constant_layer`)."""
    row: Row = dict.fromkeys(COLUMNS)
    if not layer.all.count:
        layer.flags.add("too_few_tokens")
        return row
    norms = torch.cat(layer.moments.norms).to(torch.float64)
    row |= {
        "cosine_mean": cosine_mean(layer),
        "norm_mean": float(norms.mean()),
        "norm_median": float(norms.median()),
        "norm_max": float(norms.max()),
        "abs_max": layer.moments.abs_max,
    }
    if layer.varies:
        row["top_dims"], row["top_dims_share"] = top_dims(layer)
    return row


def cosine_mean(layer: Layer) -> float | None:
    """Mean cosine over all pairs of tokens of non-zero length: (|sum u|^2 - N) / (N (N - 1)), u = x / |x|; exact.

    Null with fewer than two such tokens. Few rogue dimensions can dominate it (Timkey and van Schijndel 2021).
    """
    n = sum(int((norms > 0).sum()) for norms in layer.moments.norms)
    if n < 2:
        layer.flags.add("too_few_tokens")
        return None
    return (float(layer.moments.directions.square().sum()) - n) / (n * (n - 1))


def top_dims(layer: Layer) -> tuple[list[int], list[float]]:
    """The three coordinates of largest variance and their shares of the total."""
    variance = layer.covariance.diagonal()
    share, dims = (variance / variance.sum()).topk(min(TOP_DIMS, len(variance)))
    return dims.tolist(), share.tolist()
