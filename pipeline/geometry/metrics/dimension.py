"""Intrinsic dimension from exact neighbour distances, at several fractions and scales."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.columns import MU_PROBABILITIES
from pipeline.geometry.group_estimates import Radii, mean_over_groups, usable_group_radii
from pipeline.geometry.layer import Layer, MetricValues

COLUMNS = (
    *("id_twonn", "id_twonn_se", "id_mle", "id_mle_se"),
    *("id_mle_c50", "id_mle_c50_se", "id_mle_c90", "id_mle_c90_se"),
    "id_lb20",
    *("id_gride_k", "id_gride", "id_gride_se"),
    *("id_fraction", "id_fraction_value"),
    "id_ks",
    *("r1_median", "r2_median", "mu_quantiles"),
)
TIMING_COLUMN = "knn_s"
NEWTON_STEPS = 50
FRACTIONS = tuple(i / 10 for i in range(1, 11))


def measure(layer: Layer) -> MetricValues:
    """Return the columns of this group: means over groups of contexts; `_se` = sd / sqrt(groups), null with one group.

    A value is null, or left out of a curve, if too few points or tied distances leave nothing to estimate (see
    `usable_group_radii`).
    """
    row: MetricValues = dict.fromkeys(COLUMNS)
    radii = usable_group_radii(layer)
    if not radii:
        return row
    for name, estimator in HEADLINE_ESTIMATORS.items():
        row[name], row[f"{name}_se"] = mean_over_groups(layer, [estimator(r) for r in radii])
    row["id_lb20"], _ = mean_over_groups(layer, [id_lb20(r) for r in radii])
    row["id_ks"], _ = mean_over_groups(layer, [id_ks(r) for r in radii])
    nearest = torch.cat([r[:, :2] for r in radii])
    row |= {"r1_median": r1_median(nearest), "r2_median": r2_median(nearest), "mu_quantiles": mu_quantiles(nearest)}
    return row | _gride_curve(layer, radii) | _fraction_curve(layer, radii)


def id_twonn(radii: Radii) -> float:
    """Return TwoNN: slope through the origin of -log(1 - i/N) on the sorted log mu, lowest 90 %; mu = r2 / r1.

    `radii` are float64 `[points, k >= 2]`, ascending. Relative standard deviation 1.7 % at N = 4096.

    Source: Facco et al. 2017 (arXiv 1803.06992).
    Bias: downward from about ten dimensions on (boundary), by 15 % at d = 20 and 30 % at d = 50 for N = 10,000;
        upward on curved clouds.
    """
    log_mu = _log_mu(radii)
    return _slope(log_mu, int(len(log_mu) * 0.9))


def id_mle(radii: Radii) -> float:
    """Return the maximum likelihood of TwoNN, (N - 1) / sum log mu: smallest variance, 1.6 % at N = 4096.

    Source: Denti et al. 2022 (arXiv 2104.13832), the unbiased estimator for Facco's model.
    Bias: as `id_twonn`; the far tail of mu (noise, near-duplicate pairs) also biases it downward.
    """
    log_mu = _log_mu(radii)
    return float((len(log_mu) - 1) / log_mu.sum())


def id_mle_c50(radii: Radii) -> float:
    """Return the maximum likelihood of the lowest half of mu; of the right-censored rest only the count enters.

    Source: type-II censored Pareto likelihood; scikit-dimension's `mle` with discard_fraction 0.5.
    Bias: as `id_twonn`, less affected by the tail; relative standard deviation 2.2 % at N = 4096.
    """
    return _censored(_log_mu(radii), 0.5)


def id_mle_c90(radii: Radii) -> float:
    """Return the maximum likelihood of the lowest 90 % of mu, the rest right-censored.

    Source: type-II censored Pareto likelihood; scikit-dimension's `mle` with discard_fraction 0.1.
    Bias: as `id_twonn`, less affected by the farthest tail; relative standard deviation 1.7 % at N = 4096.
    """
    return _censored(_log_mu(radii), 0.9)


def id_lb20(radii: Radii) -> float:
    """Return Levina-Bickel with 20 neighbours (fewer if there are fewer), averaged as inverses.

    The scale is larger than that of TwoNN, the variance a quarter.

    Source: Levina and Bickel 2004; the average of MacKay and Ghahramani 2005.
    Bias: boundary and curvature bias it more than `id_twonn`: mean error 19 % against 11 % on the benchmark manifolds.
    """
    near = radii[:, :20]
    return float(1 / (near[:, -1:] / near[:, :-1]).log().mean())


def id_gride(radii: Radii, k: int) -> float:
    """Return GRIDE: maximum likelihood of r_2k / r_k, the dimension at the scale of k neighbours.

    At k = 1 this is TwoNN's N / sum log mu. A curve that falls with k indicates noise, a rising one curvature.
    Infinite if all ratios are 1.

    Source: Denti et al. 2022 (arXiv 2104.13832).
    Bias: as `id_twonn`; bias from boundary and curvature grows with k, bias from noise falls.
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
    """Return the slope of TwoNN over the lowest `fraction` of mu; a Pareto law gives a flat curve over fractions.

    Source: Facco et al. 2017 (arXiv 1803.06992), at fractions 0.1 ... 1.0 instead of 0.9 alone.
    Bias: as `id_twonn`; relative standard deviation 5 % at fraction 0.1 and N = 4096.
    """
    log_mu = _log_mu(radii)
    return _slope(log_mu, min(int(len(log_mu) * fraction), len(log_mu) - 1))


def id_ks(radii: Radii) -> float:
    """Return the Kolmogorov-Smirnov distance between mu and the Pareto law with exponent `id_mle`.

    Source: Kolmogorov-Smirnov statistic; the law of mu: Facco et al. 2017.
    Bias: the exponent is fitted and points are dependent, so 1.36 / sqrt(N) is not the 5 % point: an effect size,
        not a test.
    """
    log_mu = _log_mu(radii)
    n, law = len(log_mu), -torch.expm1(-id_mle(radii) * log_mu)
    steps = torch.arange(n + 1, device=law.device, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - law, law - steps[:-1]).max())


def r1_median(radii: Radii) -> float:
    """Return the median distance to the first neighbour over all groups.

    Source: a quantile.
    Bias: falls with the number of points, as N^(-1/d).
    """
    return float(radii[:, 0].median())


def r2_median(radii: Radii) -> float:
    """Return the median distance to the second neighbour over all groups.

    Source: a quantile.
    Bias: falls with the number of points, as N^(-1/d).
    """
    return float(radii[:, 1].median())


def mu_quantiles(radii: Radii) -> list[float]:
    """Return the quantiles of mu = r2 / r1 at MU_PROBABILITIES over all groups.

    Source: quantiles; those of a Pareto law are (1 - p)^(-1/d).
    Bias: none.
    """
    at = torch.tensor(MU_PROBABILITIES, dtype=torch.float64, device=radii.device)
    return (radii[:, 1] / radii[:, 0]).quantile(at).tolist()


def _log_mu(radii: Radii) -> Float64[Tensor, " points"]:
    return (radii[:, 1] / radii[:, 0]).log().sort().values


def _slope(log_mu: Float64[Tensor, " points"], fitted: int) -> float:
    """Return the least-squares slope through the origin over the `fitted` lowest; not finite if all are zero."""
    x = log_mu[:fitted]
    y = -torch.log1p(-torch.arange(1, fitted + 1, device=x.device, dtype=torch.float64) / len(log_mu))
    return float((x * y).sum() / x.square().sum())


def _censored(log_mu: Float64[Tensor, " points"], fraction: float) -> float:
    n, uncensored = len(log_mu), int(len(log_mu) * fraction)
    return float((uncensored - 1) / (log_mu[:uncensored].sum() + (n - uncensored) * log_mu[uncensored - 1]))


def _gride_curve(layer: Layer, radii: list[Radii]) -> MetricValues:
    """Return `id_gride` at k = 1, 2, 4 ... up to the recipe's k, as far as every group has 2k neighbours."""
    columns = min(r.shape[1] for r in radii)
    scales = [2**i for i in range(layer.recipe.k.bit_length()) if 2 ** (i + 1) <= columns]
    curve = [(k, *mean_over_groups(layer, [id_gride(r, k) for r in radii])) for k in scales]
    found = [(k, mean, se) for k, mean, se in curve if mean is not None]
    errors = [se for _, _, se in found if se is not None]
    return {
        "id_gride_k": [k for k, _, _ in found],
        "id_gride": [mean for _, mean, _ in found],
        "id_gride_se": errors if errors and len(errors) == len(found) else None,
    }


def _fraction_curve(layer: Layer, radii: list[Radii]) -> MetricValues:
    """Return `id_fraction_value` at every fraction with a finite estimate."""
    curve = [(f, mean_over_groups(layer, [id_fraction(r, f) for r in radii])[0]) for f in FRACTIONS]
    found = [(f, value) for f, value in curve if value is not None]
    return {"id_fraction": [f for f, _ in found], "id_fraction_value": [value for _, value in found]}


HEADLINE_ESTIMATORS = {"id_twonn": id_twonn, "id_mle": id_mle, "id_mle_c50": id_mle_c50, "id_mle_c90": id_mle_c90}
"""Estimators whose columns have a standard error."""
