"""Norms: lengths of tokens, mean cosine between tokens, and coordinates with the largest variance."""

from pipeline.geometry.layer import Layer, MetricValues

COLUMNS = ("cosine_mean", "norm_mean", "norm_median", "norm_max", "abs_max", "top_dims", "top_dims_share")
TIMING_COLUMN = "spectrum_s"
TOP_DIMS = 3


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group; null without tokens (`too_few_tokens`) or variance (`constant_layer`)."""
    row: MetricValues = dict.fromkeys(COLUMNS)
    if not layer.pooled_moments.count:
        layer.flags.add("too_few_tokens")
        return row
    row |= {
        "cosine_mean": cosine_mean(layer),
        "norm_mean": norm_mean(layer),
        "norm_median": norm_median(layer),
        "norm_max": norm_max(layer),
        "abs_max": abs_max(layer),
    }
    if layer.varies:
        row["top_dims"], row["top_dims_share"] = top_dims(layer)
    return row


def cosine_mean(layer: Layer) -> float | None:
    """Return the exact mean cosine over all pairs of non-zero tokens: (|sum u|^2 - N) / (N (N - 1)), u = x / |x|.

    None with fewer than two such tokens.

    Source: Ethayarajh 2019 (arXiv 1909.00512), there over a sample of pairs.
    Bias: few rogue dimensions can dominate it (Timkey and van Schijndel 2021, arXiv 2109.04404).
    """
    n = layer.moments.norm_statistics.n_positive
    if n < 2:
        layer.flags.add("too_few_tokens")
        return None
    return (float(layer.moments.direction_sum.square().sum()) - n) / (n * (n - 1))


def norm_mean(layer: Layer) -> float:
    """Return the mean norm of a token.

    Source: a moment.
    Bias: none; a few sinks can dominate the mean, see `norm_median`.
    """
    return layer.moments.norm_statistics.total / layer.pooled_moments.count


def norm_median(layer: Layer) -> float:
    """Return the median norm of a token, the lower of the middle two for an even count.

    Exact up to 262,144 tokens; above, the median of a sample at even ranks of every 2048 tokens.

    Source: a quantile.
    Bias: none; the sample adds at most its own standard error up to 16 million tokens, 5 % of it at one million.
    """
    return float(layer.moments.norm_statistics.sample.median())


def norm_max(layer: Layer) -> float:
    """Return the largest norm of a token.

    Source: a maximum.
    Bias: grows with the number of tokens.
    """
    return layer.moments.norm_statistics.largest


def abs_max(layer: Layer) -> float:
    """Return the largest absolute coordinate of any token.

    Source: a maximum; massive activations: Sun et al. 2024 (arXiv 2402.17762).
    Bias: grows with the number of tokens.
    """
    return layer.moments.abs_max


def top_dims(layer: Layer) -> tuple[list[int], list[float]]:
    """Return the three coordinates with the largest variance and their shares of the total variance.

    Source: rogue dimensions, Timkey and van Schijndel 2021 (arXiv 2109.04404).
    Bias: upward if all variances are equal, since the largest of many shares is selected.
    """
    variance = layer.covariance.diagonal()
    share, dims = (variance / variance.sum()).topk(min(TOP_DIMS, len(variance)))
    return dims.tolist(), share.tolist()
