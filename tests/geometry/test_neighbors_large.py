"""Clouds of test_neighbors at N = 4000, d = 512: offsets up to 10^4 spreads, rogue dimensions, massive tokens."""

import pytest
import torch

from pipeline.geometry.candidates import faiss_engine
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.neighbors import build_exact_graph
from tests.support.point_clouds import brute, hard_clouds

NAMES = list(hard_clouds(200, 8))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_neighbours_are_right(name: str) -> None:
    """Distances agree with float64 brute force to 1e-6, dimensions to 1e-7."""
    points = hard_clouds(4000, 512)[name]
    graph = build_exact_graph(points, 64, engine=faiss_engine)
    distances, indices = brute(points, 64)
    assert graph.n_unresolved == 0
    assert torch.equal(graph.indices[:, :2], indices[:, :2])
    torch.testing.assert_close(graph.distances, distances, rtol=1e-6, atol=0)
    for estimator in (id_twonn, id_mle):
        assert estimator(graph.distances) == pytest.approx(estimator(distances), rel=1e-7)
