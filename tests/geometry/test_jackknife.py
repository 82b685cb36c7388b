"""Standard errors over groups: leave-one-out values against whole matrices, and errors against the true spread."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.geometry import MomentStream, PointCloud, describe, describe_layer
from pipeline.recipe import built_in_recipe
from tests.support.point_clouds import curved, rotation

QUICK = built_in_recipe("quick@1")


def exact_rank(x: Tensor) -> float:
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    p = values / values.sum()
    return float(torch.special.entr(p).sum().exp())


def exact_rank_sigma(x: Tensor) -> float:
    p = torch.linalg.svdvals(x)
    return float(torch.special.entr(p / p.sum()).sum().exp())


def exact_ratio(x: Tensor) -> float:
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    return float(values.sum() ** 2 / values.square().sum())


def exact_cosine(x: Tensor) -> float:
    u = torch.nn.functional.normalize(x)
    return float(((u.sum(0) ** 2).sum() - len(u)) / (len(u) * (len(u) - 1)))


EXACT: dict[str, tuple[Callable[[Tensor], float], float]] = {
    "participation_ratio": (exact_ratio, 1e-9),
    "cosine_mean": (exact_cosine, 1e-9),
    "norm_mean": (lambda x: float(x.norm(dim=1).mean()), 1e-9),
    "effective_rank_lambda": (exact_rank, 0.03),
    "effective_rank_sigma": (exact_rank_sigma, 0.03),
}
"""Metric of a whole matrix, and the relative error of its value without a group; first order: at most 1.2 % here."""


@pytest.mark.parametrize("name", EXACT)
def test_values_without_a_group_are_those_of_the_other_rows(name: str) -> None:
    """With sinks and without them, for five groups of unequal distribution."""
    points, groups, position = curved(2000, 24).double(), torch.arange(2000) // 400, torch.arange(2000) % 50
    points = points * (1 + 0.1 * groups[:, None]) + 0.3
    points[position == 0] *= 3
    row = describe(points, groups=groups, positions=position)
    metric, tolerance = EXACT[name]
    for suffix, kept in (("", position >= 0), ("_no_sink", position > 0)):
        if f"{name}{suffix}_groups" not in row:
            continue
        expected = [metric(points[kept & (groups != g)]) for g in range(5)]
        found = row[f"{name}{suffix}_groups"]
        assert found == pytest.approx(expected, rel=tolerance)
        spread = math.sqrt(4 / 5 * ((np.array(found) - np.mean(found)) ** 2).sum())
        assert row[f"{name}{suffix}_se"] == pytest.approx(spread, rel=1e-9)


def sampled(seed: int) -> Tensor:
    """Return 1500 rows in 30 contexts of one mean each, with a decaying spectrum about a common mean."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, 41, dtype=torch.float64) ** -0.5
    means = torch.randn(30, 1, 40, generator=g, dtype=torch.float64)
    return ((0.5 * means + torch.randn(30, 50, 40, generator=g, dtype=torch.float64)) * scale + 0.3).flatten(0, 1)


def two_layers(seed: int) -> dict[str, object]:
    x = sampled(seed)
    g = torch.Generator().manual_seed(1000 + seed)
    y = torch.tanh(2 * x @ rotation(40)) + 0.05 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    stream = MomentStream([40, 40], [300] * 5, 8.0, following=[1, None])
    for layer, rows in enumerate((x, y)):
        stream.add_states(layer, rows)
    stream.end_batch(torch.zeros(1500, dtype=torch.bool), torch.arange(1500) // 300)
    moments = stream.finish()[0]
    return describe_layer(moments, PointCloud(0, 40, torch.float64), QUICK)


@pytest.mark.parametrize(
    "name",
    ["participation_ratio", "effective_rank_sigma", "effective_rank_lambda", "alpha", "cosine_mean", "linearity"],
)
def test_errors_are_the_spread_over_repeated_draws(name: str, repeated: list[dict[str, object]]) -> None:
    """Root mean square of 60 standard errors against the standard deviation of the 60 values, known to 9 %."""
    errors, values = (np.array([row[column] for row in repeated], float) for column in (f"{name}_se", name))
    # measured: 0.86 to 1.19
    assert 0.7 < math.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.4


@pytest.fixture(scope="module")
def repeated() -> list[dict[str, object]]:
    return [two_layers(seed) for seed in range(60)]


def test_linearity_without_a_group_is_first_order() -> None:
    """Against least squares on the other rows, up to a common offset: the map of all rows fits them a little worse."""
    row, x = two_layers(0), sampled(0)
    g = torch.Generator().manual_seed(1000)
    y = torch.tanh(2 * x @ rotation(40)) + 0.05 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    exact = []
    for left_out in range(5):
        kept = torch.arange(1500) // 300 != left_out
        before, after = x[kept] - x[kept].mean(0), y[kept] - y[kept].mean(0)
        residual = after - before @ torch.linalg.lstsq(before, after, driver="gelsd").solution
        exact.append(float(1 - residual.square().sum() / after.square().sum()))
    found = np.array(row["linearity_groups"], float)
    # measured: 1.6e-4 of values that spread over 2e-3
    assert found - found.mean() == pytest.approx(np.array(exact) - np.mean(exact), abs=4e-4)


def test_one_group_has_neither_errors_nor_lists() -> None:
    row = describe(curved(600, 16))
    for name in EXACT:
        assert row[f"{name}_se"] is None
        assert row[f"{name}_groups"] is None


def test_groups_of_one_dimension_estimate_are_in_order_with_nulls() -> None:
    """The estimate of each group alone; a group without enough points is null in its place."""
    points = curved(1250, 16)
    groups = torch.arange(1250) // 400
    row = describe(points, groups=groups)
    for name in ("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90", "id_lb20"):
        alone = [describe(points[groups == g])[name] for g in range(3)]
        assert row[f"{name}_groups"] == [*alone, None]
        assert row[name] == pytest.approx(np.mean(alone), rel=1e-12)
    assert "group_too_small" in row["flags"]
