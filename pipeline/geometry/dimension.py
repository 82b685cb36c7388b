"""Intrinsic dimension from exact neighbour distances: the published estimate, and what it should have been."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.columns import MU_PROBABILITIES
from pipeline.geometry.layer import Layer, Row
from pipeline.geometry.neighbors import Graph

COLUMNS = (
    "id_authors",
    *("id_twonn", "id_twonn_se", "id_mle", "id_mle_se"),
    *("id_mle_c50", "id_mle_c50_se", "id_mle_c90", "id_mle_c90_se"),
    "id_lb20",
    *("id_gride_k", "id_gride", "id_gride_se"),
    *("id_fraction", "id_fraction_value"),
    "id_ks",
    *("r1_median", "r2_median", "mu_quantiles"),
)
MIN_POINTS = 100
"""Below this a group has no dimension: one standard deviation would be 10 % or more."""
FEW_POINTS = 500
NEWTON_STEPS = 50
FRACTIONS = tuple(i / 10 for i in range(1, 11))

Radii = Float64[Tensor, "_points _k"]
"""Neighbour distances of one group; groups may differ in points, and so in neighbours."""


def measure(layer: Layer) -> Row:
    """The columns of this group: means over the groups of contexts, `_se` = sd / sqrt(groups), null with one group.

    Groups with fewer than 100 points, or with r1 = r2 at every point, are left out (flags `too_few_points`,
    `tied_distances`); groups with fewer than 500 points count (flag `few_points`).
    """
    row: Row = {**dict.fromkeys(COLUMNS), "id_authors": id_authors(layer)}
    radii = _usable(layer)
    if not radii:
        return row
    for name, estimator in HEADLINES.items():
        row[name], row[f"{name}_se"] = _over_groups([estimator(r) for r in radii])
    row["id_lb20"], _ = _over_groups([id_lb20(r) for r in radii])
    row["id_ks"], _ = _over_groups([id_ks(r) for r in radii])
    row |= _gride_curve(radii, layer.recipe.k)
    row["id_fraction"] = list(FRACTIONS)
    row["id_fraction_value"] = [_over_groups([id_fraction(r, f) for r in radii])[0] for f in FRACTIONS]
    nearest = torch.cat([r[:, :2] for r in radii])
    row["r1_median"], row["r2_median"] = nearest.median(0).values.tolist()
    row["mu_quantiles"] = mu_quantiles(nearest)
    return row


def id_twonn(radii: Radii) -> float:
    """TwoNN (Facco et al. 2017): slope through the origin of -log(1 - i/N) on the sorted log mu, lowest 90 %.

    Relative standard deviation 1.7 % at N = 4096. Bias: downward from about ten dimensions on (boundary), by 15 % at
    d = 20 and 30 % at d = 50 for N = 10 000; upward on curved clouds.
    """
    log_mu = _log_mu(radii)
    return _slope(log_mu, int(len(log_mu) * 0.9))


def id_mle(radii: Radii) -> float:
    """TwoNN's maximum likelihood (N - 1) / sum log mu. Smallest variance, but dominated by near-duplicate pairs."""
    log_mu = _log_mu(radii)
    return (len(log_mu) - 1) / float(log_mu.sum())


def id_mle_c50(radii: Radii) -> float:
    """Maximum likelihood of the lowest half of mu, the rest censored on the right: far neighbours are ignored."""
    return _censored(_log_mu(radii), 0.5)


def id_mle_c90(radii: Radii) -> float:
    """Maximum likelihood of the lowest 90 % of mu, the rest censored on the right (scikit-dimension's `mle`)."""
    return _censored(_log_mu(radii), 0.9)


def id_lb20(radii: Radii) -> float:
    """Levina-Bickel with 20 neighbours, averaged as inverses (MacKay and Ghahramani 2005).

    A larger scale than TwoNN's: a quarter of its variance, more bias by boundary and curvature. With fewer than 20
    neighbours as many as there are.
    """
    near = radii[:, :20]
    return float(1 / (near[:, -1:] / near[:, :-1]).log().mean())


def id_gride(radii: Radii, k: int) -> float:
    """GRIDE (Denti et al. 2022): maximum likelihood of r_2k / r_k, dimension at the scale of k neighbours.

    At k = 1 it is TwoNN's N / sum log mu. A curve that falls with k says noise, one that rises says curvature.
    """
    log_ratio = (radii[:, 2 * k - 1] / radii[:, k - 1]).log()
    n, total = len(log_ratio), float(log_ratio.sum())
    # The score is convex and falls to its one root; this start lies to its left, from where Newton cannot overshoot.
    d = 2 * k * n / ((3 * k - 1) * total)
    for _ in range(NEWTON_STEPS):
        lost = -torch.expm1(-d * log_ratio)  # 1 - (r_k / r_2k)^d
        term = torch.where(log_ratio > 0, log_ratio / lost, 1 / d)
        score = n / d + (k - 1) * float(term.sum()) - (2 * k - 1) * total
        slope = -n / d**2 - (k - 1) * float((term.square() * (1 - lost)).sum())
        d, before = d - score / slope, d
        if abs(d - before) <= 1e-13 * d:
            break
    return d


def id_fraction(radii: Radii, fraction: float) -> float:
    """TwoNN's slope over the lowest `fraction` of mu; a flat curve over fractions is what a Pareto law gives."""
    log_mu = _log_mu(radii)
    return _slope(log_mu, min(int(len(log_mu) * fraction), len(log_mu) - 1))


def id_ks(radii: Radii) -> float:
    """Kolmogorov-Smirnov distance of mu to the Pareto law with exponent `id_mle`; 1.36 / sqrt(N) is the 5 % point
    for a given exponent and independent points, both of which it is not: read it as a size, not as a test."""
    log_mu = _log_mu(radii)
    n, law = len(log_mu), -torch.expm1(-id_mle(radii) * log_mu)
    steps = torch.arange(n + 1, device=law.device, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - law, law - steps[:-1]).max())


def mu_quantiles(radii: Radii) -> list[float]:
    """Quantiles of mu = r2 / r1 at MU_PROBABILITIES, over all groups."""
    at = torch.tensor(MU_PROBABILITIES, dtype=torch.float64, device=radii.device)
    return (radii[:, 1] / radii[:, 0]).quantile(at).tolist()


def id_authors(layer: Layer) -> float | None:
    """The published code's TwoNN (llm_microscope 0.0.7), flaws included, on the first `authors_points` points.

    Slope over the lowest fifth of mu only; points with a duplicate, or with r1 = r2, stay in the denominator of the
    empirical distribution. Bias: upward with duplicates (5 % of them read 13.5 for 10, 20 % read 25); standard
    deviation 3.6 % at N = 4096. Float64 distances of centered rows in units of their mean length; the distribution
    function in float32, as published.
    """
    graph = layer.authors_graph
    n = int(graph.copies.sum())
    mu = _authors_mu(graph) if graph.distances.shape[1] >= 2 else graph.distances.new_zeros(0)
    fitted = len(mu) // 5
    if not fitted:
        layer.flags.add("too_few_points")
        return None
    below = (torch.arange(n - len(mu) + 1, n + 1, device=mu.device).to(torch.float32) / n)[:fitted]
    log_mu = mu[:fitted].log()
    return float((log_mu * -torch.log(1 - below)).sum() / log_mu.square().sum())


def _authors_mu(graph: Graph) -> Float64[Tensor, " usable"]:
    """Sorted r2 / r1 of the points that have neither a copy nor r1 = r2."""
    points, weight = graph.points.to(torch.float64), graph.copies.to(torch.float64)
    points = points - (weight @ points) / weight.sum()
    points = points / (weight @ torch.linalg.vector_norm(points, dim=1) / weight.sum())
    near = graph.indices[:, :4]
    distances = torch.stack([torch.linalg.vector_norm(points - points[j], dim=1) for j in near.T], 1)
    distances, order = distances.sort(dim=1, stable=True)
    nearest_has_copies = graph.copies[near.gather(1, order)[:, 0]] > 1
    mu = distances[:, 1] / distances[:, 0]
    usable = (graph.copies == 1) & ~nearest_has_copies & (distances[:, 0] >= 1e-8) & (mu > 1 + 1e-8)
    return mu[usable].sort().values


def _log_mu(radii: Radii) -> Float64[Tensor, " points"]:
    return (radii[:, 1] / radii[:, 0]).log().sort().values


def _slope(log_mu: Float64[Tensor, " points"], fitted: int) -> float:
    """Least squares through the origin over the `fitted` lowest."""
    x = log_mu[:fitted]
    y = -torch.log1p(-torch.arange(1, fitted + 1, device=x.device, dtype=torch.float64) / len(log_mu))
    return float((x * y).sum() / x.square().sum())


def _censored(log_mu: Float64[Tensor, " points"], fraction: float) -> float:
    n, kept = len(log_mu), int(len(log_mu) * fraction)
    return (kept - 1) / float(log_mu[:kept].sum() + (n - kept) * log_mu[kept - 1])


def _usable(layer: Layer) -> list[Radii]:
    """Neighbour distances of the groups that can be measured."""
    enough = [g.radii for g in layer.graphs if len(g.radii) >= MIN_POINTS]
    if len(enough) < max(len(layer.graphs), 1):
        layer.flags.add("too_few_points")
    if any(len(r) < FEW_POINTS for r in enough):
        layer.flags.add("few_points")
    usable = [r for r in enough if bool((r[:, 1] > r[:, 0]).any())]
    if len(usable) < len(enough):
        layer.flags.add("tied_distances")
    return usable


def _gride_curve(radii: list[Radii], largest: int) -> Row:
    """`id_gride` at k = 1, 2, 4 ... up to `largest`, as far as every group has 2k neighbours."""
    columns = min(r.shape[1] for r in radii)
    scales = [2**i for i in range(largest.bit_length()) if 2 ** (i + 1) <= columns]
    curve = [_over_groups([id_gride(r, k) for r in radii]) for k in scales]
    errors = [se for _, se in curve if se is not None]
    return {"id_gride_k": scales, "id_gride": [mean for mean, _ in curve], "id_gride_se": errors or None}


def _over_groups(values: list[float]) -> tuple[float, float | None]:
    """Mean and its standard error."""
    n, mean = len(values), sum(values) / len(values)
    se = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else None
    return mean, se


HEADLINES = {"id_twonn": id_twonn, "id_mle": id_mle, "id_mle_c50": id_mle_c50, "id_mle_c90": id_mle_c90}
"""With a standard error each."""
