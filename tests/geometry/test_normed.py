"""Columns of the points as the next block reads them."""

import pytest
import torch

from pipeline.geometry import MomentStream, PointCloud, describe, describe_layer
from pipeline.recipe import built_in_recipe
from tests.support.point_clouds import curved

RECIPE = built_in_recipe("quick@1").model_copy(update={"k": 4})


def normed_row(points: torch.Tensor, read_by_next) -> dict[str, object]:
    group = torch.arange(len(points)) // (len(points) // 4)
    stream = MomentStream([points.shape[1]], [len(points) // 4] * 4, 8.0)
    stream.add_states(0, points)
    stream.end_batch(torch.zeros(len(points), dtype=torch.bool), group)
    cloud = PointCloud(len(points), points.shape[1], points.dtype)
    cloud.append(points, group=group)
    return describe_layer(stream.finish()[0], cloud, RECIPE, read_by_next)


@pytest.mark.parametrize("norm", [torch.nn.LayerNorm(24), torch.nn.RMSNorm(24)])
def test_they_are_the_metrics_of_the_normed_points(norm: torch.nn.Module) -> None:
    """Equal to `describe` of the normed matrix; massive points, which dominate the raw state, do not."""
    points = curved(1600, 24) + 0.5
    points[::100] *= 200
    with torch.inference_mode():
        row, expected = normed_row(points, norm), describe(norm(points), groups=torch.arange(1600) // 400)
    for name in ("anisotropy", "cosine_mean", "id_twonn"):
        assert row[f"{name}_normed"] == pytest.approx(expected[name], rel=1e-6)
        assert row[f"{name}_normed_se"] == pytest.approx(expected[f"{name}_se"], rel=1e-4)
        assert row[f"{name}_normed_groups"] == pytest.approx(expected[f"{name}_groups"], rel=1e-6)
    assert row["anisotropy"] > 2 * row["anisotropy_normed"]


def test_the_identity_of_post_norm_models_changes_nothing() -> None:
    row = normed_row(curved(1600, 24), lambda states: states)
    for name in ("anisotropy", "cosine_mean", "id_twonn"):
        assert row[f"{name}_normed"] == pytest.approx(row[name], rel=1e-9)


def test_equal_points_after_the_norm_have_no_geometry() -> None:
    row = normed_row(curved(1600, 24), torch.ones_like)
    assert (row["anisotropy_normed"], row["id_twonn_normed"], row["status"]) == (None, None, "ok")
    assert "too_few_normed_points" in row["flags"]


def test_without_a_next_block_there_are_none() -> None:
    assert {value for name, value in normed_row(curved(1600, 24), None).items() if "_normed" in name} == {None}
