"""Linearity against LAPACK least squares on whole float64 matrices; low rank, bias and nulls."""

import pytest
import torch
from torch import Tensor

from pipeline.geometry import MomentStream, PointCloud, describe_layer
from pipeline.recipe import built_in_recipe
from tests.support.point_clouds import curved, hard_clouds, rotation

HARD = hard_clouds(3000, 96)


def two_layers(x: Tensor, y: Tensor, groups: Tensor | None = None) -> list[dict[str, object]]:
    """Return the rows of two consecutive layers."""
    groups = torch.zeros(len(x), dtype=torch.int64) if groups is None else groups
    stream = MomentStream([x.shape[1], y.shape[1]], groups.bincount().tolist(), 8.0, following=[1, None])
    stream.add_states(0, x)
    stream.add_states(1, y)
    stream.end_batch(torch.zeros(len(x), dtype=torch.bool), groups)
    rows = []
    for moments, points in zip(stream.finish(), (x, y), strict=True):
        cloud = PointCloud(200, points.shape[1], points.dtype)
        cloud.append(points[:200])
        rows.append(describe_layer(moments, cloud, built_in_recipe("quick@1")))
    return rows


def published_linearity(x: Tensor, y: Tensor) -> float:
    """Return R^2 of LAPACK least squares on centered matrices."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    residual = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return float(1 - residual.square().sum() / y.square().sum())


@pytest.mark.parametrize("name", ["plain", "offset 10000", "rogue 100"])
def test_linearity_equals_least_squares(name: str) -> None:
    """Both R^2, to the next layer and to the increment, equal those of the published method."""
    x = HARD[name].double()
    y = x + 0.1 * torch.tanh((x - x.mean(0)) @ rotation(96) + 1)
    row, last = two_layers(x, y)
    assert row["linearity"] == pytest.approx(published_linearity(x, y), abs=1e-9)
    assert row["linearity_residual"] == pytest.approx(published_linearity(x, y - x), abs=1e-6)
    assert last["linearity"] is None


def test_linearity_at_low_rank() -> None:
    """Rounding noise explains nothing: for rank 8 in 32 dimensions R^2 equals that of LAPACK with its cut-off."""
    g = torch.Generator().manual_seed(9)
    x = torch.randn(500, 8, generator=g, dtype=torch.float64) @ torch.randn(8, 32, generator=g, dtype=torch.float64)
    y = x + torch.tanh(x @ rotation(32)) + torch.randn(500, 32, generator=g, dtype=torch.float64)
    row, _ = two_layers(x, y)
    assert row["linearity"] == pytest.approx(published_linearity(x, y), abs=1e-9)


def test_linear_maps_are_linear_also_at_low_rank() -> None:
    """y = x B gives R^2 = 1 for full rank and for rank 8 in 32 dimensions."""
    g = torch.Generator().manual_seed(7)
    full = torch.randn(500, 32, generator=g, dtype=torch.float64)
    low = full[:, :8] @ torch.randn(8, 32, generator=g, dtype=torch.float64)
    for x in (full, low):
        row, _ = two_layers(x, x @ torch.randn(32, 48, generator=g, dtype=torch.float64) + 5)
        assert row["linearity"] == pytest.approx(1, abs=1e-10)
        assert row["linearity_residual"] is None
        assert "width_changes" in row["flags"]


def test_unrelated_layers_read_their_bias() -> None:
    """Independent Gaussian layers have R^2 = d / (N - 1) in sample."""
    g = torch.Generator().manual_seed(8)
    row, _ = two_layers(torch.randn(2000, 64, generator=g), torch.randn(2000, 64, generator=g))
    assert row["linearity"] == pytest.approx(64 / 1999, rel=0.05)  # measured: 1.5 %


def test_no_linearity_over_different_tokens() -> None:
    """A non-finite row in either layer or a constant next layer gives null and a flag."""
    x = curved(500, 16)
    bad = x.clone()
    bad[3] = torch.nan
    for before, after, flag in (
        (bad, x, "nonfinite_rows"),
        (x, bad, "nonfinite_rows"),
        (x, x * 0, "next_layer_constant"),
    ):
        row, _ = two_layers(before, after)
        assert row["linearity"] is None
        assert flag in row["flags"]


def test_repeated_layer_has_no_increment() -> None:
    """y = x gives linearity 1; the increment is zero, so linearity_residual is null."""
    row, _ = two_layers(curved(500, 16), curved(500, 16))
    assert row["linearity"] == pytest.approx(1, abs=1e-12)
    assert row["linearity_residual"] is None
    assert "no_increment" in row["flags"]
