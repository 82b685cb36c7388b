"""Dimension with one point per token type: the control for neighbours that are the same token."""

import pytest
import torch

from pipeline.geometry import describe
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.neighbors import build_exact_graph, restrict_graph
from pipeline.recipe import built_in_recipe
from tests.support.point_clouds import brute, curved

RECIPE = built_in_recipe("quick@1").model_copy(update={"k": 4})


def clustered(types: int, copies: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `copies` points near each of `types` centers of dimension 10, jittered in two directions of their own."""
    g = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(types, 1, 10, generator=g, dtype=torch.float64)
    jitter = torch.randn(types, copies, 2, generator=g, dtype=torch.float64)
    axes = torch.randn(types, 2, 10, generator=g, dtype=torch.float64)
    points = (centers + 0.05 * jitter @ axes).flatten(0, 1)
    order = torch.randperm(len(points), generator=g)
    return points[order], torch.arange(types).repeat_interleave(copies)[order]


def test_clusters_of_one_token_hide_the_dimension_of_the_centers() -> None:
    """All points read the clusters' two dimensions, one point per type those of the centers alone."""
    points, tokens = clustered(800, 6)
    row = describe(points, token_ids=tokens, recipe=RECIPE)
    centers = torch.stack([points[tokens == t][0] for t in range(800)])
    alone = describe(centers, recipe=RECIPE)
    assert row["n_types"] == 800
    assert row["id_twonn"] < 3
    # 800 points: one standard deviation is 4 %
    assert row["id_twonn_types"] == pytest.approx(alone["id_twonn"], rel=0.12)
    assert row["id_mle_types"] == pytest.approx(alone["id_mle"], rel=0.12)


def test_points_of_different_types_are_their_own_control() -> None:
    points = curved(900, 16)
    row = describe(points, token_ids=torch.arange(900), groups=torch.arange(900) // 300, recipe=RECIPE)
    for name in ("id_twonn", "id_mle"):
        assert row[f"{name}_types_groups"] == row[f"{name}_groups"]
        assert row[f"{name}_types_se"] == row[f"{name}_se"]


def test_the_same_points_are_drawn_in_every_layer() -> None:
    """Two layers of the same tokens, one of them scaled, differ in nothing."""
    points, tokens = clustered(300, 4)
    rows = [describe(layer, token_ids=tokens, recipe=RECIPE) for layer in (points, 4 * points)]
    assert rows[0]["id_mle_types"] == pytest.approx(rows[1]["id_mle_types"], rel=1e-12)


def test_few_types_have_no_estimate() -> None:
    row = describe(curved(900, 16), token_ids=torch.arange(900) % 99, recipe=RECIPE)
    assert (row["n_types"], row["id_twonn_types"], row["id_mle_types_groups"]) == (99, None, None)
    assert "too_few_types" in row["flags"]
    assert row["status"] == "ok"


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02])
def test_a_restricted_graph_equals_brute_force(share: float) -> None:
    """Lists that lose members are exact whether enough of them are left or they are searched again."""
    points = curved(1200, 16).double()
    graph = build_exact_graph(points, 8)
    keep = torch.rand(1200, generator=torch.Generator().manual_seed(1)) < share
    part = restrict_graph(graph, keep, 2)
    distances, indices = brute(points[keep], 2)
    torch.testing.assert_close(part.distances, distances, rtol=1e-12, atol=0)
    assert torch.equal(part.indices, indices)
    assert bool(part.resolved.all())
    assert id_twonn(part.radii) == pytest.approx(id_twonn(distances), rel=1e-10)
    assert id_mle(part.radii) == pytest.approx(id_mle(distances), rel=1e-10)
