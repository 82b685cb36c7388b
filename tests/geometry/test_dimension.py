"""Dimension estimators against independent code, exact distributions and the published function."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import skdim
import torch
from scipy import optimize, special
from torch import Tensor

from pipeline.columns import MU_PROBABILITIES
from pipeline.geometry import describe
from pipeline.geometry.metrics.dimension import (
    id_fraction,
    id_gride,
    id_ks,
    id_lb20,
    id_mle,
    id_mle_c50,
    id_mle_c90,
    id_twonn,
)
from pipeline.geometry.neighbors import build_exact_graph
from tests.support.point_clouds import brute, curved, hard_clouds

SCALES = (1, 2, 4, 8, 16, 32, 64)


def radii(points: Tensor, k: int = 128) -> Tensor:
    return build_exact_graph(points, k).radii


def poisson_radii(n: int, k: int, dim: float, seed: int = 0) -> Tensor:
    """Neighbour distances in a homogeneous Poisson process: shell volumes are independent exponentials."""
    g = torch.Generator().manual_seed(seed)
    volumes = torch.empty(n, k, dtype=torch.float64).exponential_(generator=g).cumsum(1)
    return volumes ** (1 / dim)


def published(points: Tensor) -> float:
    """Return the published estimate, rewritten with plain loops that sort all float64 distances of every row."""
    x = points.double()
    x = x - x.mean(0)
    x = x / x.norm(dim=1).mean()
    mu = []
    for i in range(len(x)):
        r1, r2 = (x - x[i]).norm(dim=1)[torch.arange(len(x)) != i].sort().values[:2].tolist()
        mu.append(-1.0 if r1 < 1e-8 else r2 / r1)
    ordered = np.sort(mu)
    unusable = int((ordered <= 1 + 1e-8).sum())
    usable = ordered[unusable:]
    # float32 because torch divides integers in float32
    share = np.arange(1 + unusable, len(x) + 1).astype(np.float32) / np.float32(len(x))
    fitted = len(usable) // 5
    log_mu, log_share = np.log(usable[:fitted]), -np.log(np.float32(1) - share[:fitted])
    return float((log_mu * log_share).sum() / (log_mu**2).sum())


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize(("dim", "n"), [(3, 400), (10, 1500), (40, 800)])
def test_equal_to_scikit_dimension(dim: int, n: int) -> None:
    """TwoNN, its likelihoods at fractions 1, 0.9 and 0.5, and Levina-Bickel agree to 1e-6 on the same distances."""
    r = radii(curved(n, 64, dim))
    pairs = r[:, :2].numpy()

    def twonn(**options: object) -> float:
        return skdim.id.TwoNN(dist=True, **options).fit(pairs).dimension_

    assert id_twonn(r) == pytest.approx(twonn(discard_fraction=0.1), rel=1e-6)
    assert id_mle(r) == pytest.approx(twonn(discard_fraction=0, method="mle"), rel=1e-6)
    assert id_mle_c90(r) == pytest.approx(twonn(discard_fraction=0.1, method="mle"), rel=1e-6)
    assert id_mle_c50(r) == pytest.approx(twonn(discard_fraction=0.5, method="mle"), rel=1e-6)
    assert id_fraction(r, 0.4) == pytest.approx(twonn(discard_fraction=0.6), rel=1e-6)
    levina = skdim.id.MLE(K=20).fit(curved(n, 64, dim).double().numpy(), comb="mle", n_neighbors=20).dimension_
    assert id_lb20(r) == pytest.approx(levina, rel=1e-6)


@pytest.mark.parametrize("k", SCALES)
def test_gride_maximises_its_likelihood(k: int) -> None:
    """The estimate maximises Denti's likelihood of r_2k / r_k, implemented independently here."""
    r = radii(curved(600, 32, 5))
    log_mu = (r[:, 2 * k - 1] / r[:, k - 1]).log().numpy()

    def loss(d: float) -> float:
        density = np.log(d) + (k - 1) * np.log(np.expm1(d * log_mu)) - ((2 * k - 1) * d + 1) * log_mu
        return -density.mean()

    best = optimize.minimize_scalar(loss, bounds=(0.1, 50), method="bounded", options={"xatol": 1e-10}).x
    assert id_gride(r, k) == pytest.approx(best, rel=1e-6)


def test_gride_at_one_is_the_likelihood_of_twonn() -> None:
    """GRIDE at k = 1 equals `id_mle` up to its factor (N - 1) / N; tied pairs keep GRIDE finite."""
    r = radii(curved(500, 16, 4))
    assert id_gride(r, 1) == pytest.approx(id_mle(r) * 500 / 499, rel=1e-12)
    r[:50, 3] = r[:50, 1]
    assert math.isfinite(id_gride(r, 2))


@pytest.mark.parametrize("dim", [1, 2, 5, 20])
def test_exact_laws_give_exact_dimensions(dim: int) -> None:
    """Every estimator returns the dimension of a Poisson process within 3 standard deviations, at every scale."""
    n = 20_000
    r = poisson_radii(n, 128, dim)
    relative = {id_twonn: 1.07, id_mle: 1.0, id_mle_c90: 1.06, id_mle_c50: 1.42, id_lb20: 0.23}  # sd * sqrt(n)
    for estimator, sd in relative.items():
        assert estimator(r) == pytest.approx(dim, rel=3 * sd / math.sqrt(n))
    for k in SCALES:
        sd = math.sqrt(special.polygamma(1, k) - special.polygamma(1, 2 * k)) / (special.psi(2 * k) - special.psi(k))
        assert id_gride(r, k) == pytest.approx(dim, rel=3 * sd / math.sqrt(n))
    for fraction in (0.1, 0.5, 1.0):
        assert id_fraction(r, fraction) == pytest.approx(dim, rel=0.1)  # sd 3 % at 0.1
    assert id_ks(r) < 1.63 / math.sqrt(n)  # the 1 % point


@pytest.mark.parametrize("k", SCALES[:-1])
def test_gride_law(k: int) -> None:
    """E[d log(r_2k / r_k)] equals psi(2k) - psi(k)."""
    r = poisson_radii(20_000, 64, 3)
    mean = float(3 * (r[:, 2 * k - 1] / r[:, k - 1]).log().mean())
    assert mean == pytest.approx(special.psi(2 * k) - special.psi(k), rel=0.03)  # measured: 0.7 %


@pytest.mark.parametrize("dim", [1, 2, 5, 8])
def test_on_a_flat_torus_mu_is_pareto_for_every_n(dim: int) -> None:
    """Uniform points with geodesic distance have E[d log mu] = 1, so 1 / mean(1 / estimate) is the dimension."""
    inverse = []
    for seed in range(8):
        x = torch.rand(800, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        gap = (x[:, None] - x[None]).abs()
        near = torch.minimum(gap, 1 - gap).norm(dim=2).fill_diagonal_(torch.inf).topk(2, largest=False).values
        inverse.append(float((near[:, 1] / near[:, 0]).log().mean()))
    # sd of the mean of 6400 dependent points, measured over 20 repetitions: 1.5 %
    assert 1 / np.mean(inverse) == pytest.approx(dim, rel=0.045)


def test_published_values() -> None:
    """The values equal those of llm_microscope 0.0.7 for its README example."""
    torch.manual_seed(0)
    row = describe(torch.randn(1000, 10))
    assert row["id_authors"] == pytest.approx(8.911751409, rel=1e-9)
    assert row["anisotropy"] == pytest.approx(0.115724616, rel=2e-7)  # llm_microscope uses a float32 SVD


@pytest.mark.parametrize(
    ("name", "value"),
    [("M1_Sphere", 10.015936), ("M7_Roll", 1.859916), ("M10a_Cubic", 10.458087), ("M12_Norm", 16.063421)],
)
def test_published_code_on_benchmark_manifolds(name: str, value: float) -> None:
    """`id_authors` equals the value of llm_microscope 0.0.7 on scikit-dimension's manifolds."""
    manifolds = skdim.datasets.BenchmarkManifolds(random_state=0)
    intrinsic, dim, _ = manifolds.truth.loc[name, ["Intrinsic Dimension", "Number of variables", "Description"]]
    points = manifolds.generate(name=name, n=1000, dim=int(dim), d=int(intrinsic))
    assert describe(points)["id_authors"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("copies", [0, 60, 300])
def test_id_authors_keeps_the_flaws(copies: int) -> None:
    """Repeated rows: `id_authors` has the same bias as the published function."""
    g = torch.Generator().manual_seed(5)
    points = torch.randn(600, 8, generator=g)
    points = torch.cat([points, points[:copies]])[torch.randperm(600 + copies, generator=g)]
    row = describe(points)
    assert row["id_authors"] == pytest.approx(published(points), rel=1e-7)  # measured: 1e-8, float32 logarithms
    assert row["n_duplicates"] == copies
    if copies:
        clean = describe(points.unique(dim=0))
        assert row["id_authors"] > 1.5 * clean["id_authors"]
        assert row["id_mle"] == pytest.approx(clean["id_mle"], rel=1e-9)


def test_id_authors_keeps_near_duplicates() -> None:
    """Pairs within float32 rounding, which the other estimators merge, count as neighbours."""
    points = curved(500, 16).double()
    points = torch.cat([points, points[:30] * (1 + 1e-14), points[30:60] * (1 + 1e-7)])
    assert describe(points)["id_authors"] == pytest.approx(published(points), rel=1e-7)


def neighbour_clouds() -> dict[str, Tensor]:
    """Return hard float32 clouds, and clouds with an offset rounded to bfloat16 and float16."""
    hard = hard_clouds(1000, 64)
    base = curved(1000, 64)
    return hard | {"bfloat16": (base + 30).to(torch.bfloat16), "float16": (base + 100).to(torch.float16)}


@pytest.mark.parametrize("name", neighbour_clouds())
def test_every_neighbour_metric_equals_the_float64_reference(name: str) -> None:
    """Every metric agrees to 1e-6 with all N^2 float64 differences of the distinct rows."""
    points = neighbour_clouds()[name]
    row = describe(points, contexts=torch.arange(1000) // 20, token_ids=torch.arange(1000) % 7)
    assert row["n_duplicates"] == row["n_near_duplicates"] == row["n_unresolved"] == 0
    r, near = brute(points, 128)
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}[points.dtype]
    expected = {
        **{f.__name__: f(r) for f in (id_twonn, id_mle, id_mle_c50, id_mle_c90, id_lb20, id_ks)},
        "id_gride": [id_gride(r, k) for k in SCALES],
        "id_fraction_value": [id_fraction(r, i / 10) for i in range(1, 11)],
        "id_authors": published(points),
        "r1_median": float(r[:, 0].median()),
        "r2_median": float(r[:, 1].median()),
        "mu_quantiles": np.quantile(r[:, 1] / r[:, 0], MU_PROBABILITIES).tolist(),
        "noise_ratio": float((unit * points.double().norm(dim=1) / r[:, 0]).median()),
        "same_context_share": float((near[:, :2] // 20 == torch.arange(1000)[:, None] // 20).double().mean()),
        "same_token_share": float((near[:, :2] % 7 == torch.arange(1000)[:, None] % 7).double().mean()),
    }
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, rel=1e-6), column
    assert ("quantised" in row["flags"]) == (points.dtype != torch.float32)


def test_headlines_are_means_over_groups() -> None:
    """Each group has a separate graph; the value is the mean over groups, the error sd / sqrt(groups)."""
    points, groups = curved(2000, 32), torch.arange(2000) % 4
    row = describe(points, groups=groups)
    parts = [describe(points[groups == g]) for g in range(4)]
    for name in ("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90"):
        values = np.array([part[name] for part in parts])
        assert row[name] == pytest.approx(values.mean(), rel=1e-12)
        assert row[f"{name}_se"] == pytest.approx(values.std(ddof=1) / 2, rel=1e-9)
    curves = np.array([part["id_gride"] for part in parts])
    assert row["id_gride"] == pytest.approx(curves.mean(0), rel=1e-12)
    assert row["id_gride_se"] == pytest.approx(curves.std(0, ddof=1) / 2, rel=1e-9)
    assert row["n_points"] == 2000


def test_intervals_over_groups_cover() -> None:
    """95 % t-intervals over five groups cover the expectation in 88 to 99 % of trials on clustered clouds."""
    estimates = []
    for seed in range(150 * 5):
        g = torch.Generator().manual_seed(seed)
        centers = torch.randn(40, 1, 6, generator=g)
        cloud = (centers + 0.3 * torch.randn(40, 5, 6, generator=g)).flatten(0, 1)  # 40 contexts of 5 tokens
        estimates.append(id_twonn(brute(cloud, 2)[0]))
    groups = np.array(estimates).reshape(150, 5)
    half = 2.776 * groups.std(1, ddof=1) / math.sqrt(5)
    covered = np.abs(groups.mean(1) - groups.mean()) < half
    assert 0.88 <= covered.mean() <= 0.99  # measured: 0.967


@pytest.mark.parametrize(("n", "flag"), [(99, "too_few_points"), (300, "few_points")])
def test_few_points_are_flagged(n: int, flag: str) -> None:
    """Fewer than 100 points give no estimate, fewer than 500 an estimate with a flag."""
    row = describe(curved(n, 16))
    assert flag in row["flags"]
    assert (row["id_mle"] is None) == (n < 100)
    assert row["status"] == ("degenerate" if n < 100 else "ok")


@pytest.mark.parametrize(("sizes", "left"), [((400, 400, 60), 2), ((700, 60), 1), ((60, 60), 0)])
def test_a_small_group_is_left_out_and_the_row_stays_ok(sizes: tuple[int, ...], left: int) -> None:
    """Values are means over the other groups; one group gives no error, zero groups give a degenerate row."""
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    points = curved(len(groups), 16)
    row = describe(points, groups=groups)
    assert row["status"] == ("ok" if left else "degenerate")
    assert ("group_too_small" in row["flags"], "too_few_points" in row["flags"]) == (left > 0, left == 0)
    assert (row["id_mle"] is None, row["id_mle_se"] is None) == (left == 0, left < 2)
    if left:
        alone = [describe(points[groups == g])["id_mle"] for g in range(left)]
        assert row["id_mle"] == pytest.approx(np.mean(alone), rel=1e-9)


def test_copies_of_every_point_leave_only_the_published_code_without_a_number() -> None:
    """`id_authors` drops points with a copy; other estimators use the distinct points, so the row is ok."""
    row = describe(curved(600, 16).repeat(2, 1))
    assert row["id_authors"] is None
    assert row["id_twonn"] is not None
    assert row["status"] == "ok"
    assert "too_few_without_copies" in row["flags"]


def test_lattices_have_no_dimension() -> None:
    """A cloud in which every point has r1 = r2 gives null with a flag instead of a division by zero."""
    row = describe(torch.cartesian_prod(*[torch.arange(4.0)] * 4))
    assert row["id_mle"] is None
    assert "tied_distances" in row["flags"]


def test_ties_cost_only_the_estimates_that_are_made_of_them() -> None:
    """A lattice with displaced points has no slope over the tied fractions but a likelihood over all of mu."""
    points = torch.cartesian_prod(*[torch.arange(4.0)] * 4)
    points[:100] += 0.01 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    row = describe(points)
    truth = brute(points, 2)[0]
    tied = int((truth.diff(dim=1) == 0).sum())
    assert 0.1 * 256 < tied < 0.5 * 256
    assert row["id_fraction"] == [i / 10 for i in range(1, 11) if int(256 * i / 10) > tied]
    assert len(row["id_fraction_value"]) == len(row["id_fraction"])
    assert row["id_mle"] == pytest.approx(id_mle(truth), rel=1e-6)
    assert "tied_distances" in row["flags"]


def _published_manifolds() -> dict[str, tuple[float, float]]:
    """Return table S2 of Huang, Chen and Chung: (MLE with k = 20, TwoNN with discard 0.1) at N = 2500."""
    table = """
        M1_Sphere 9.0 9.4; M2_Affine_3to5 2.8 2.9; M3_Nonlinear_4to6 3.7 3.8; M4_Nonlinear 4.0 3.9; M5a_Helix1d 1.0 1.0;
        M5b_Helix2d 2.6 2.0; M6_Nonlinear 6.4 6.0; M7_Roll 2.0 2.0; M8_Nonlinear 13.5 13.3; M9_Affine 14.5 15.5;
        M10a_Cubic 8.7 9.1; M10b_Cubic 13.2 14.2; M10c_Cubic 17.2 18.8; M10d_Cubic 35.7 40.2; M11_Moebius 2.0 2.0;
        M12_Norm 15.5 17.0; M13a_Scurve 2.0 2.0; M13b_Spiral 1.6 1.0; Mbeta 5.8 6.4; Mn1_Nonlinear 13.5 14.3;
        Mn2_Nonlinear 16.9 18.4; Mp1_Paraboloid 2.8 3.0; Mp2_Paraboloid 4.7 5.4; Mp3_Paraboloid 5.9 7.3
    """
    rows = (line.split() for line in table.replace("\n", "").split(";"))
    return {name: (float(levina), float(twonn)) for name, levina, twonn in rows}


MANIFOLDS = _published_manifolds()
FAST = ("M1_Sphere", "M5b_Helix2d", "M8_Nonlinear", "M10d_Cubic", "M12_Norm", "Mp3_Paraboloid")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MANIFOLDS]
)
def test_benchmark_manifolds(name: str) -> None:
    """The mean of five draws is within max(0.15, 4 %) of the published value, 8 % for the least regular manifold."""
    estimates: dict[Callable, list[float]] = {id_lb20: [], id_twonn: []}
    for seed in range(5):
        manifolds = skdim.datasets.BenchmarkManifolds(random_state=seed)
        dim, intrinsic = manifolds.truth.loc[name, ["Number of variables", "Intrinsic Dimension"]]
        r = radii(torch.from_numpy(manifolds.generate(name=name, n=2500, dim=int(dim), d=int(intrinsic))), 20)
        for estimator, values in estimates.items():
            values.append(estimator(r))
    for values, truth in zip(estimates.values(), MANIFOLDS[name], strict=True):
        tolerance = max(0.15, (0.08 if name == "Mbeta" else 0.04) * truth)
        assert np.mean(values) == pytest.approx(truth, abs=tolerance)
