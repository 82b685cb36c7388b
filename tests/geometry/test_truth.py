"""Values known from theory or from other packages."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_swiss_roll

from pipeline.geometry import describe
from pipeline.geometry.metrics.spectrum import effective_rank_lambda, participation_ratio
from pipeline.geometry.moments import Moments
from pipeline.recipe import built_in_recipe

RECIPE = built_in_recipe("standard@1").model_copy(update={"k": 10})


@pytest.mark.parametrize("dim", [1000, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_random_walk_has_the_spectrum_of_antognini_and_sohl_dickstein(dim: int) -> None:
    """Variance shares 6 / (pi k)^2 (arXiv 1806.08805): anisotropy 0.608, ratio 4, participation ratio 2.5, alpha 2."""
    steps = torch.randn(1000, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    row = describe(steps.cumsum(0), recipe=RECIPE)
    # measured: within 3.0, 8.6, 4.9 and 0.9 % in five draws of 1000 dimensions
    assert row["anisotropy"] == pytest.approx(6 / math.pi**2, rel=0.05)
    assert row["top_eigenvalues"][0] / row["top_eigenvalues"][1] == pytest.approx(4, rel=0.13)
    assert row["participation_ratio"] == pytest.approx(2.5, rel=0.08)
    assert row["alpha"] == pytest.approx(2, rel=0.02)


def test_the_harmonic_spectrum_in_closed_form() -> None:
    """Eigenvalues 1/i, d = 100, given exactly."""
    values = 1 / torch.arange(1, 101, dtype=torch.float64)
    assert float(values[0] / values.sum()) == pytest.approx(0.192776, abs=5e-7)
    assert participation_ratio(values.diag()) == pytest.approx(16.4582, abs=5e-5)
    assert effective_rank_lambda(values) == pytest.approx(39.6772, abs=5e-5)
    sums = Moments.empty(torch.zeros(100))
    sums.add_rows(torch.cat([values.sqrt().diag(), -values.sqrt().diag()]))
    assert participation_ratio(sums.covariance()) == pytest.approx(16.4582, abs=5e-5)


def test_the_digits() -> None:
    """TwoNN and maximum likelihood over 20 neighbours as of scikit-dimension 0.5.0."""
    row = describe(load_digits().data, recipe=RECIPE)
    assert row["id_twonn"] == pytest.approx(8.9081727648, rel=1e-9)
    assert row["id_lb20"] == pytest.approx(6.8448153322, rel=1e-9)


def test_the_swiss_roll_is_two_dimensional() -> None:
    """Means over 20 draws of 1000 points; their standard errors are below 0.02."""
    rows = [describe(make_swiss_roll(1000, random_state=seed)[0], recipe=RECIPE) for seed in range(20)]
    for name, value in (("id_lb20", 1.926), ("id_twonn", 1.961), ("id_mle", 1.963)):
        assert np.mean([row[name] for row in rows]) == pytest.approx(value, abs=0.02)
