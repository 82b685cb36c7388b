"""Gaussian surrogate: equal for a Gaussian cloud, far above a thin manifold, dependent on the spectrum only."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.columns import column_names
from pipeline.geometry import describe
from pipeline.geometry.metrics.surrogate import COLUMNS
from pipeline.recipe import built_in_recipe
from tests.support.point_clouds import curved, rotation

RECIPE = built_in_recipe("quick@1").model_copy(update={"surrogate": True, "k": 2})


def measured(points: Tensor, groups: int = 4, **changes: int) -> dict[str, object]:
    return describe(points, groups=torch.arange(len(points)) % groups, recipe=RECIPE.model_copy(update=changes))


def gaussian(n: int, dim: int, decay: float, seed: int) -> Tensor:
    """Return rotated and shifted Gaussian points with eigenvalues i^-decay."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, dim + 1, dtype=torch.float64) ** (-decay / 2)
    return torch.randn(n, dim, generator=g, dtype=torch.float64) * scale @ rotation(dim) + 3


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_a_gaussian_reads_as_its_own_surrogate(decay: float) -> None:
    """Measured and surrogate dimension agree within error."""
    differences = []
    for seed in range(4):
        row = measured(gaussian(3200, 24, decay, seed), seed=seed)
        for name in ("id_twonn", "id_mle"):
            error = np.hypot(row[f"{name}_se"], row[f"{name}_gaussian_se"])
            # standard errors have 3 degrees of freedom
            assert row[f"{name}_gaussian"] == pytest.approx(row[name], abs=6 * error)
            differences.append(row[f"{name}_gaussian"] / row[name] - 1)
    # sd of one draw 2 to 3 %; measured means: at most 0.7 %
    assert abs(np.mean(differences)) < 0.03


@pytest.mark.parametrize("intrinsic", [2, 4])
def test_a_curved_manifold_lies_far_below_its_surrogate(intrinsic: int) -> None:
    """Few curved dimensions spread over 128 coordinates: the spectrum alone implies several times as many."""
    g = torch.Generator().manual_seed(0)
    points = torch.sin(3 * torch.randn(2000, intrinsic, generator=g) @ torch.randn(intrinsic, 128, generator=g))
    row = measured(points, groups=2)
    for name in ("id_twonn", "id_mle"):
        assert row[f"{name}_gaussian"] > 3 * row[name]


def test_only_the_covariance_matters() -> None:
    """Mean, axes and unit have no effect; equal seeds give equal surrogates, other seeds different ones."""
    points = curved(1000, 32).double()
    expected = measured(points)
    for moved in (points, 8 * (points @ rotation(32)) + 5):
        row = measured(moved)
        assert all(row[name] == pytest.approx(expected[name], rel=1e-9) for name in COLUMNS)
    assert measured(points, seed=1)["id_mle_gaussian"] != pytest.approx(expected["id_mle_gaussian"], rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_sinks_do_not_stretch_the_surrogate(seed: int) -> None:
    """A Gaussian layer with one sink in 256 tokens reads as its surrogate; with the sinks' covariance it does not."""
    points = gaussian(4096, 64, 0.5, seed)
    position = torch.arange(4096) % 256
    points[position == 0] += 300 * torch.eye(64, dtype=torch.float64)[0]
    row = describe(points, groups=torch.arange(4096) // 1024, positions=position, recipe=RECIPE)
    error = np.hypot(row["id_mle_se"], row["id_mle_gaussian_se"])
    assert row["n_sink_tokens"] == 16
    # standard errors have 3 degrees of freedom; the sinks' covariance gave a surrogate 24 % lower
    assert row["id_mle_gaussian"] == pytest.approx(row["id_mle"], abs=6 * error)
    assert row["id_mle_gaussian"] == pytest.approx(row["id_mle"], rel=0.08)


def test_it_draws_as_many_points_as_were_measured() -> None:
    """The estimate for a flat cloud depends on the number of points; duplicates must not increase that number."""
    points = gaussian(1600, 40, 0.0, 0)
    twice = torch.cat([points, points])
    once, both = (measured(x, groups=1)["id_mle_gaussian"] for x in (points, twice))
    assert both == pytest.approx(once, rel=1e-3)


def test_without_the_switch_there_is_none() -> None:
    """The columns are null without a flag."""
    row = describe(curved(600, 16), torch.arange(600) // 10, recipe="quick@1")
    assert {row[name] for name in COLUMNS} == {None}
    assert set(COLUMNS) <= set(column_names("dimension"))
    assert row["flags"] == ["alpha_range", "no_token_ids"]


def test_a_constant_layer_has_none() -> None:
    """The columns are null with the flag `constant_layer`."""
    row = measured(torch.ones(600, 16))
    assert {row[name] for name in COLUMNS} == {None}
    assert "constant_layer" in row["flags"]
