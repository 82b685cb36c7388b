"""TwoNN and GRIDE against DADApy 0.3.4, run separately (numpy 1.26) on the two clouds below.

Calls: IdEstimation(coordinates=X).compute_id_2NN(algorithm="base") and "ml", and
.return_id_scaling_gride(range_max=128).
"""

import numpy as np
import pytest
import torch

from pipeline.geometry.metrics.dimension import id_gride, id_mle, id_twonn
from pipeline.geometry.neighbors import build_exact_graph

rng = np.random.default_rng(0)
CLOUDS = {
    "two gaussians": np.concatenate([rng.normal(0, 1, (500, 2)), rng.normal((6, 0), 0.7, (500, 2))]),
    "curved": np.tanh(rng.normal(0, 1, (2000, 5)) @ rng.normal(0, 1, (5, 20)) / 2),
}
SCALES = (1, 2, 4, 8, 16, 32, 64)
DADAPY = {
    "two gaussians": (
        2.0346765323330764,
        2.0118081052737447,
        [2.0118080908, 2.0151173095, 2.0707111580, 2.0822372528, 2.0674482144, 2.0513111461, 1.9656550498],
    ),
    "curved": (
        4.929092094477838,
        4.965948225149958,
        [4.9659482362, 4.9280874502, 4.8172199532, 4.6695136794, 4.5223667806, 4.3752509065, 4.1857885357],
    ),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_dadapy_agrees(name: str) -> None:
    """TwoNN agrees to 1e-6 (measured: linear fit 3e-10, likelihood 5e-14), GRIDE to 1 % (0.1 %: factor (N - 1) / N)."""
    distances = build_exact_graph(torch.from_numpy(CLOUDS[name]), 128).distances
    linear, likelihood, gride = DADAPY[name]
    assert id_twonn(distances) == pytest.approx(linear, rel=1e-6)
    assert id_mle(distances) == pytest.approx(likelihood, rel=1e-6)
    assert [id_gride(distances, k) for k in SCALES] == pytest.approx(gride, rel=1e-2)
