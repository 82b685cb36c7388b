"""Intrinsic dimension from exact neighbour distances, at several fractions and scales."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.columns import MU_PROBABILITIES
from pipeline.geometry.group_estimates import Radii, estimate_columns, mean_over_groups, usable_group_radii
from pipeline.geometry.layer import Layer, MetricValues

HEADLINE_NAMES = ("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90", "id_lb20")
"""Columns with a standard error (`_se`) and a list of the estimates of each group (`_groups`)."""
COLUMNS = (
    *(f"{name}{end}" for name in HEADLINE_NAMES for end in ("", "_se", "_groups")),
    *("id_gride_k", "id_gride", "id_gride_se", "id_gride_4_groups", "id_gride_16_groups"),
    *("id_fraction", "id_fraction_value", "id_local_quantiles"),
    "id_ks",
    *("r1_median", "r2_median", "mu_quantiles"),
)
TIMING_COLUMN = "knn_s"
NEWTON_STEPS = 50
GROUPED_SCALES = (4, 16)
"""Scales k at which GRIDE has a column with the estimates of each group."""
FRACTIONS = tuple(i / 10 for i in range(1, 11))


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group.

    A value is the mean of the estimates of all groups of contexts, and `_se` is sd / sqrt(groups), or null with one
    group. Medians and quantiles are over the points of all groups. All columns are null if no group is usable (see
    `usable_group_radii`). A value is also null, or missing from a curve, if no group has a finite estimate.
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    groups = usable_group_radii(layer)
    radii = [r for r in groups if r is not None]
    if not radii:
        return row
    for name in HEADLINE_NAMES:
        row |= estimate_columns(layer, name, groups, ESTIMATORS[name])
    row["id_ks"], *_ = mean_over_groups(layer, [id_ks(r) for r in radii])
    row["id_local_quantiles"] = id_local_quantiles(layer, radii)
    nearest = torch.cat([r[:, :2] for r in radii])
    row |= {"r1_median": r1_median(nearest), "r2_median": r2_median(nearest), "mu_quantiles": mu_quantiles(nearest)}
    return row | _gride_curve(layer, groups) | _fraction_curve(layer, radii)


def id_twonn(radii: Radii) -> float:
    """Return the TwoNN estimate from the ratios mu = r2 / r1 of the distances to the two nearest neighbours.

    It is the slope of the line through the origin that is fitted to -log(1 - i/N) as a function of the i-th smallest
    log mu, over the lowest 90 % of N points. Its relative standard deviation is 1.7 % at N = 4096.

    Args:
        radii: neighbour distances, float64 `[points, k >= 2]`, ascending in each row.

    Source: Facco et al. 2017 (arXiv 1803.06992).
    Bias: downward above about ten dimensions because of the boundary, by 15 % at d = 20 and 30 % at d = 50 for
        N = 10,000; upward on curved clouds.
    """
    log_mu = _log_mu(radii)
    return _slope(log_mu, int(len(log_mu) * 0.9))


def id_mle(radii: Radii) -> float:
    """Return the maximum likelihood estimate for the model of `id_twonn`, (N - 1) / sum log mu with mu = r2 / r1.

    Its relative standard deviation is 1.6 % at N = 4096 points, the smallest of these estimators.

    Source: Denti et al. 2022 (arXiv 2104.13832), the unbiased estimator for Facco's model.
    Bias: as `id_twonn`; the far tail of mu (noise, near-duplicate pairs) causes a further downward bias.
    """
    log_mu = _log_mu(radii)
    return float((len(log_mu) - 1) / log_mu.sum())


def id_mle_c50(radii: Radii) -> float:
    """Return the maximum likelihood estimate from the lowest half of mu = r2 / r1; the upper half is right-censored.

    Source: type-II censored Pareto likelihood; scikit-dimension's `mle` with discard_fraction 0.5.
    Bias: as `id_twonn`, less affected by the tail; relative standard deviation 2.2 % at N = 4096.
    """
    return _censored(_log_mu(radii), 0.5)


def id_mle_c90(radii: Radii) -> float:
    """Return the maximum likelihood estimate from the lowest 90 % of mu = r2 / r1; the upper 10 % are right-censored.

    Source: type-II censored Pareto likelihood; scikit-dimension's `mle` with discard_fraction 0.1.
    Bias: as `id_twonn`, less affected by the farthest tail; relative standard deviation 1.7 % at N = 4096.
    """
    return _censored(_log_mu(radii), 0.9)


def id_lb20(radii: Radii) -> float:
    """Return the Levina-Bickel estimate with 20 neighbours (or all, if there are fewer).

    It is the inverse of the mean of 1 / (local dimension) over points. Its scale is larger than that of TwoNN, and its
    variance a quarter of TwoNN's.

    Source: Levina and Bickel 2004; averaged as in MacKay and Ghahramani 2005.
    Bias: boundary and curvature have a larger effect than on `id_twonn`: on the benchmark manifolds the mean error is
        19 % instead of 11 %.
    """
    return float(1 / _inverse_local_dimension(radii).mean())


def id_local_quantiles(layer: Layer, radii: list[Radii]) -> list[float] | None:
    """Return the quantiles of the local dimension over the points of all groups, at MU_PROBABILITIES.

    The local dimension is the Levina-Bickel estimate at one point: 1 / mean of log(r_20 / r_j) over the nearer
    neighbours j < 20. Points whose 20 neighbours are all at one distance are left out (flag `tied_distances`). The
    result is None if no point is left.

    Source: Levina and Bickel 2004.
    Bias: the estimate at one point has a relative standard deviation of 23 %, so that quantiles spread even if the
        dimension is constant.
    """
    inverse = torch.cat([_inverse_local_dimension(r) for r in radii])
    usable = inverse[inverse > 0]
    if len(usable) < len(inverse):
        layer.flags.add("tied_distances")
    if not len(usable):
        return None
    at = torch.tensor(MU_PROBABILITIES, dtype=torch.float64, device=inverse.device)
    return (1 / usable).quantile(at).tolist()


def id_gride(radii: Radii, k: int) -> float:
    """Return the GRIDE estimate of the dimension at the scale of k neighbours: maximum likelihood of r_2k / r_k.

    At k = 1 this is N / sum log mu of TwoNN's model. It is infinite if all ratios are 1. Noise, the boundary, finite N
    and the finite extent of a curved manifold can make the curve over k fall: on a noiseless Gaussian of 20 dimensions,
    it falls from 17.4 to 13.4. Curvature and clusters can make it rise.

    Source: Denti et al. 2022 (arXiv 2104.13832).
    Bias: as `id_twonn`; bias from boundary and curvature grows with k, and bias from noise decreases.
    """
    log_ratio = (radii[:, 2 * k - 1] / radii[:, k - 1]).log()
    n, total = len(log_ratio), float(log_ratio.sum())
    if total == 0:
        return math.inf
    # The score is convex and decreasing with one root; the start lies left of the root, so Newton cannot overshoot.
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
    """Return the slope of `id_twonn` over the lowest `fraction` of mu = r2 / r1, instead of the lowest 90 %.

    If mu has a Pareto distribution, the slope is the same at all fractions.

    Source: Facco et al. 2017 (arXiv 1803.06992), at fractions 0.1 ... 1.0 instead of 0.9 alone.
    Bias: as `id_twonn`; relative standard deviation 5 % at fraction 0.1 and N = 4096.
    """
    log_mu = _log_mu(radii)
    return _slope(log_mu, min(int(len(log_mu) * fraction), len(log_mu) - 1))


def id_ks(radii: Radii) -> float:
    """Return the Kolmogorov-Smirnov distance between mu = r2 / r1 and the Pareto distribution of exponent `id_mle`.

    Source: Kolmogorov-Smirnov statistic; the distribution of mu is from Facco et al. 2017.
    Bias: the exponent is fitted and points are dependent, so 1.36 / sqrt(N) is not the 5 % critical value; the distance
        is an effect size, not a test.
    """
    log_mu = _log_mu(radii)
    n, law = len(log_mu), -torch.expm1(-id_mle(radii) * log_mu)
    steps = torch.arange(n + 1, device=law.device, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - law, law - steps[:-1]).max())


def r1_median(radii: Radii) -> float:
    """Return the median distance to the first neighbour over the points of all groups.

    Source: a quantile.
    Bias: falls with the number of points, as N^(-1/d).
    """
    return float(radii[:, 0].median())


def r2_median(radii: Radii) -> float:
    """Return the median distance to the second neighbour over the points of all groups.

    Source: a quantile.
    Bias: falls with the number of points, as N^(-1/d).
    """
    return float(radii[:, 1].median())


def mu_quantiles(radii: Radii) -> list[float]:
    """Return the quantiles of mu = r2 / r1 over the points of all groups, at MU_PROBABILITIES.

    Source: quantiles; the quantiles of a Pareto distribution are (1 - p)^(-1/d).
    Bias: none.
    """
    at = torch.tensor(MU_PROBABILITIES, dtype=torch.float64, device=radii.device)
    return (radii[:, 1] / radii[:, 0]).quantile(at).tolist()


def _inverse_local_dimension(radii: Radii) -> Float64[Tensor, " points"]:
    """Return the inverse local dimension of each point: mean of log(r_k / r_j) over its neighbours j < k.

    k is 20, or the number of neighbours if that is smaller.
    """
    near = radii[:, :20]
    return (near[:, -1:] / near[:, :-1]).log().mean(1)


def _log_mu(radii: Radii) -> Float64[Tensor, " points"]:
    return (radii[:, 1] / radii[:, 0]).log().sort().values


def _slope(log_mu: Float64[Tensor, " points"], fitted: int) -> float:
    """Return the least-squares slope through the origin over the `fitted` lowest values; not finite if these are 0."""
    x = log_mu[:fitted]
    y = -torch.log1p(-torch.arange(1, fitted + 1, device=x.device, dtype=torch.float64) / len(log_mu))
    return float((x * y).sum() / x.square().sum())


def _censored(log_mu: Float64[Tensor, " points"], fraction: float) -> float:
    n, uncensored = len(log_mu), int(len(log_mu) * fraction)
    return float((uncensored - 1) / (log_mu[:uncensored].sum() + (n - uncensored) * log_mu[uncensored - 1]))


def _gride_curve(layer: Layer, groups: list[Radii | None]) -> MetricValues:
    """Return the columns of GRIDE at scales k = 1, 2, 4 ... up to the recipe's k.

    Scales for which some group has fewer than 2k neighbours are left out.
    """
    columns = min(r.shape[1] for r in groups if r is not None)
    scales = [2**i for i in range(layer.recipe.k.bit_length()) if 2 ** (i + 1) <= columns]
    curve = {k: mean_over_groups(layer, [None if r is None else id_gride(r, k) for r in groups]) for k in scales}
    found = [(k, mean, se) for k, (mean, se, _) in curve.items() if mean is not None]
    errors = [se for _, _, se in found if se is not None]
    return {
        "id_gride_k": [k for k, _, _ in found],
        "id_gride": [mean for _, mean, _ in found],
        "id_gride_se": errors if errors and len(errors) == len(found) else None,
        **{f"id_gride_{k}_groups": curve[k][2] if k in curve else None for k in GROUPED_SCALES},
    }


def _fraction_curve(layer: Layer, radii: list[Radii]) -> MetricValues:
    """Return two columns: the fractions at which a group has a finite estimate, and the means over groups there."""
    curve = [(f, mean_over_groups(layer, [id_fraction(r, f) for r in radii])[0]) for f in FRACTIONS]
    found = [(f, value) for f, value in curve if value is not None]
    return {"id_fraction": [f for f, _ in found], "id_fraction_value": [value for _, value in found]}


ESTIMATORS: dict[str, Callable[[Radii], float]] = {
    "id_twonn": id_twonn,
    "id_mle": id_mle,
    "id_mle_c50": id_mle_c50,
    "id_mle_c90": id_mle_c90,
    "id_lb20": id_lb20,
}
