"""Anisotropy, spectrum and norms: closed forms, independent code, whole-matrix float64 references."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.columns import column_names
from pipeline.geometry import describe
from pipeline.geometry.eigen import _lanczos, eigendecompose, top_eigenvalue
from pipeline.geometry.metrics.spectrum import participation_ratio_corrected
from pipeline.geometry.moments import Moments
from tests.support.point_clouds import curved, hard_clouds, rotation

HARD = hard_clouds(3000, 96)
NO_SINK = {name for name in column_names("anisotropy", "spectrum", "norms") if name.endswith("_no_sink")}


def with_spectrum(eigenvalues: Tensor, n: int = 2000, seed: int = 0) -> Tensor:
    """Return float64 points whose sample covariance has exactly these eigenvalues."""
    d = len(eigenvalues)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(n - 1)
    return (x * eigenvalues.double().sqrt()) @ rotation(d).T + 3


def moments_of(points: Tensor) -> Moments:
    sums = Moments.empty(points[:100].double().mean(0))
    sums.add_rows(points)
    return sums


def reference(x: Tensor, position: Tensor) -> dict[str, float | list]:
    """Return every moment metric from the whole float64 matrix: singular values, Gram matrices, sorted norms."""
    n, centered, norms = len(x), x - x.mean(0), x.norm(dim=1)
    lam, raw = torch.linalg.svdvals(centered).square() / (n - 1), torch.linalg.svdvals(x)
    p, q, variance = lam / lam.sum(), raw / raw.sum(), x.var(0)
    unit = x / norms[:, None]
    sink = (position == 0) | (norms > 8 * norms[:512].median())
    square = centered.square().sum(1)
    rank = np.arange(12, len(lam) + 1)
    line, r2 = weighted_line(np.log(rank), lam[11:].log().numpy(), 1 / rank)
    found = {
        "anisotropy": p[0],
        "anisotropy_uncentered": raw[0] ** 2 / raw.square().sum(),
        "sink_variance_share": square[sink].sum() / square.sum(),
        "total_variance": lam.sum(),
        "participation_ratio": 1 / p.square().sum(),
        "participation_ratio_corrected": unbiased_ratio(lam, square),
        "effective_rank_lambda": torch.exp(-(p * p.log()).sum()),
        "effective_rank_sigma": torch.exp(-(q * q.log()).sum()),
        "alpha": -line[0],
        "alpha_r2": r2,
        "cosine_mean": (unit @ unit.T).fill_diagonal_(0).sum() / (n * (n - 1)),
        "norm_mean": norms.mean(),
        "norm_median": norms.median(),
        "norm_max": norms.max(),
        "abs_max": x.abs().max(),
        "abs_median": x[:512].abs().median(),
        "pca_90": (p.cumsum(0) < 0.9).sum() + 1,
        "pca_99": (p.cumsum(0) < 0.99).sum() + 1,
        "marchenko_pastur_edge": variance.mean() * (1 + math.sqrt(x.shape[1] / n)) ** 2,
    }
    ranks = torch.tensor(sorted(set(np.geomspace(1, x.shape[1], 64).round().astype(int).tolist())))
    lists = {"top_eigenvalues": lam[:32], "top_dims_share": (variance / lam.sum()).topk(3).values}
    lists |= {"eigenvalue_ranks": ranks, "eigenvalues_at_ranks": lam[ranks - 1]}
    return {c: float(v) for c, v in found.items()} | {c: v.tolist() for c, v in lists.items()}


def ordinary_reference(x: Tensor, position: Tensor) -> dict[str, float | list]:
    """Return the metrics without sinks: those of the whole float64 matrix of the other rows."""
    norms = x.norm(dim=1)
    kept = (position > 0) & (norms <= 8 * norms[:512].median())
    return {c: v for c, v in reference(x[kept], position[kept]).items() if f"{c}_no_sink" in NO_SINK}


def weighted_line(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the coefficients of numpy's weighted line and its R^2."""
    line = np.polyfit(x, y, 1, w=np.sqrt(w))
    residual = (w * (y - np.polyval(line, x)) ** 2).sum()
    return line, 1 - residual / (w * (y - np.average(y, weights=w)) ** 2).sum()


def unbiased_ratio(lam: Tensor, square: Tensor) -> Tensor:
    """Return unbiased (tr S)^2 over unbiased tr S^2 from sample eigenvalues, as Himeno and Yamada (2014)."""
    n, q = len(square), square.square().sum() / (len(square) - 1)
    trace2, of_square = lam.sum() ** 2, lam.square().sum()
    above = 2 * of_square + (n**2 - 3 * n + 1) * trace2 - n * q
    return above / ((n - 1) * (n - 2) * of_square + trace2 - n * q)


@pytest.mark.parametrize("name", HARD)
def test_every_moment_metric_equals_the_float64_reference(name: str) -> None:
    """Metrics of offset and stretched float32 clouds agree to 1e-6 with the whole float64 matrix."""
    x, position = HARD[name].double(), torch.arange(len(HARD[name])) % 50
    row = describe(HARD[name], positions=position)
    without = {f"{column}_no_sink": value for column, value in ordinary_reference(x, position).items()}
    expected = reference(x, position) | without
    assert "spectrum_floor" not in row["flags"]
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, rel=1e-6), column
    assert row["top_dims"] == x.var(0).topk(3).indices.tolist()
    others = {"alpha_lo", "alpha_hi", "alpha_no_sink_lo", "alpha_no_sink_hi", "top_dims"}
    others |= {
        "anisotropy_normed",
        "cosine_mean_normed",
    }  # of the points, not of the moments: tests/geometry/test_normed
    every = set(column_names("anisotropy", "spectrum", "norms"))
    assert set(expected) == {name for name in every if not name.endswith(("_se", "_groups"))} - others


@pytest.mark.parametrize("k", [1, 5, 64])
def test_equal_eigenvalues(k: int) -> None:
    """k equal eigenvalues give participation ratio and effective rank k, anisotropy 1/k, IsoScore (k - 1) / (d - 1)."""
    d = 64
    row = describe(with_spectrum(torch.cat([torch.ones(k), torch.zeros(d - k)])))
    assert row["participation_ratio"] == pytest.approx(k, rel=1e-9)
    assert row["effective_rank_lambda"] == pytest.approx(k, rel=1e-9)
    assert row["anisotropy"] == pytest.approx(1 / k, rel=1e-9)
    assert (row["participation_ratio"] - 1) / (d - 1) == pytest.approx((k - 1) / (d - 1), abs=1e-9)
    assert ("spectrum_floor" in row["flags"]) == (k < d)


def test_isoscore_identity() -> None:
    """IsoScore by its definition, from the variances along the principal axes, is (PR - 1) / (d - 1)."""
    x = curved(500, 20).double()
    d, row = x.shape[1], describe(x)
    variances = np.linalg.eigvalsh(np.cov(x.numpy().T))
    direction = math.sqrt(d) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(direction - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    share = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    assert (row["participation_ratio"] - 1) / (d - 1) == pytest.approx((d * share - 1) / (d - 1), rel=1e-7)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.5])
def test_power_laws(exponent: float) -> None:
    """lambda_i = i^-a gives alpha = a with R^2 = 1 on the available ranks."""
    for dim, last in ((128, 100), (40, 40), (19, 19)):
        row = describe(with_spectrum(torch.arange(1, dim + 1, dtype=torch.float64) ** -exponent))
        assert (row["alpha_lo"], row["alpha_hi"]) == (12, last)
        assert row["alpha"] == pytest.approx(exponent, rel=1e-9)
        assert row["alpha_r2"] == pytest.approx(1, abs=1e-9)
    short = describe(with_spectrum(torch.arange(1, 16, dtype=torch.float64) ** -exponent))
    assert short["alpha"] is None
    assert "alpha_range" in short["flags"]


def test_alpha_is_the_weighted_line() -> None:
    """Slope and R^2 equal numpy's weighted fit on an exponential spectrum."""
    lam = torch.exp(-torch.arange(64.0).double() / 9)
    row = describe(with_spectrum(lam))
    rank = np.arange(12, 65)
    line, r2 = weighted_line(np.log(rank), lam.log().numpy()[11:], 1 / rank)
    assert (row["alpha"], row["alpha_r2"]) == pytest.approx((-line[0], r2), rel=1e-8)


def test_isotropic_gaussian() -> None:
    """PR is 1 / (1/d + 1/N), corrected PR is d, and anisotropy is at the Marchenko-Pastur edge."""
    n, d = 4000, 100
    row = describe(torch.randn(n, d, generator=torch.Generator().manual_seed(0)))
    assert row["participation_ratio"] == pytest.approx(1 / (1 / d + 1 / n), rel=2e-3)  # measured: 2e-4
    assert row["participation_ratio_corrected"] == pytest.approx(d, rel=2e-3)  # measured: 2e-4
    assert row["anisotropy"] == pytest.approx((1 + math.sqrt(d / n)) ** 2 / d, rel=0.02)  # measured: 0.7 %


@pytest.mark.parametrize(("d", "n", "spike"), [(768, 4096, 50.0), (200, 1000, 20.0), (768, 4096, 1.0)])
def test_spiked_gaussian(d: int, n: int, spike: float) -> None:
    """A spike l above the threshold gives l (1 + g / (l - 1)) / (l + d - 1), g = d / N; below, the edge."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    x[:, 0] *= math.sqrt(spike)
    g = d / n
    top = spike * (1 + g / (spike - 1)) if spike > 1 + math.sqrt(g) else (1 + math.sqrt(g)) ** 2
    measured = moments_of(x).covariance()
    # sd of the largest eigenvalue: l sqrt(2 / N), 2 % at N = 4096 and 4.5 % at 1000
    assert top_eigenvalue(measured) / float(measured.trace()) == pytest.approx(top / (spike + d - 1), rel=0.07)


@pytest.mark.parametrize("length", [16, 64, 128])
def test_sinks_explain_the_anisotropy_they_cause(length: int) -> None:
    """One sink of norm m per context of L tokens gives the closed form, and noise without the sinks."""
    d, m, contexts = 128, 60.0, 40 * 128 // length
    x = torch.randn(contexts * length, d, generator=torch.Generator().manual_seed(2))
    x[::length] += m * torch.eye(d)[0]
    row = describe(x, positions=torch.arange(len(x)) % length)
    p = 1 / length
    along, rest = p * (1 - p) * m**2 + 1, d - 1
    assert row["anisotropy"] == pytest.approx(along / (along + rest), rel=0.03)  # measured: 0.6 %
    assert row["anisotropy_no_sink"] == pytest.approx((1 + math.sqrt(d / len(x))) ** 2 / d, rel=0.05)
    shared = p * (1 - p) ** 2 * m**2 + p * d
    assert row["sink_variance_share"] == pytest.approx(shared / (along + rest), rel=0.03)
    assert row["n_sink_tokens"] == contexts
    ratio = (p * m) ** 2 / (along + rest)
    share = (row["anisotropy"] * (along + rest)) / (along + rest)
    assert row["anisotropy_uncentered"] >= (ratio + share) / (ratio + 1) - 1e-3


def test_corrected_ratio_averages_over_distinct_tokens() -> None:
    """The ratio equals brute-force averages over all ordered quadruples of different rows."""
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 2
    gram = (x @ x.T).tolist()
    above = below = 0.0
    for i, j, k, m in itertools.permutations(range(7), 4):
        above += gram[i][i] * gram[j][j] - 2 * gram[i][i] * gram[j][k] + gram[i][j] * gram[k][m]
        below += gram[i][j] * gram[i][j] - 2 * gram[i][j] * gram[j][k] + gram[i][j] * gram[k][m]
    ratio = participation_ratio_corrected(moments_of(x))
    assert ratio == pytest.approx(above / below, rel=1e-9) if below > 0 else ratio is None


@pytest.mark.parametrize(("n", "d", "value"), [(40, 30, 9.27011082161583), (300, 20, 8.002393085576644)])
def test_corrected_ratio_equals_the_package(n: int, d: int, value: float) -> None:
    """The ratio equals `row` of the PyPI package `dimensionality` 0.1.4."""
    x = np.random.default_rng(0).normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5
    assert participation_ratio_corrected(moments_of(torch.from_numpy(x))) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("kind", ["flat", "clustered", "gap", "rank one", "decaying"])
def test_lanczos_equals_the_full_decomposition(kind: str) -> None:
    """Lanczos agrees to 1e-9 on easy and hard spectra; without convergence the residual bounds its error."""
    d = 400
    lam = {
        "flat": 1 + torch.rand(d, generator=torch.Generator().manual_seed(4)),
        "clustered": torch.cat([torch.full((20,), 5.0), torch.linspace(0, 1, d - 20)]),
        "gap": torch.cat([torch.tensor([100.0]), torch.ones(d - 1)]),
        "rank one": torch.cat([torch.tensor([7.0]), torch.zeros(d - 1)]),
        "decaying": torch.arange(1.0, d + 1) ** -1,
    }[kind].double()
    turn = rotation(d)
    matrix = (turn * lam) @ turn.T
    assert top_eigenvalue(matrix) == pytest.approx(float(lam.max()), rel=1e-9)
    value, residual = _lanczos(matrix, 5)
    assert float((eigendecompose(matrix).values - value).abs().min()) <= residual + 1e-12


def test_anisotropy_se_leaves_one_group_out() -> None:
    """The jackknife over groups equals SVDs of the remaining rows, for all tokens and without openers."""
    points, groups, opens = curved(1500, 32), torch.arange(1500) // 50 % 5, torch.arange(1500) % 50 == 0
    points[opens] *= 3
    row = describe(points, groups=groups, positions=torch.arange(1500) % 50)
    for name, mask in (("anisotropy", opens | True), ("anisotropy_no_sink", ~opens)):
        without = []
        for g in range(5):
            x = points[mask & (groups != g)].double()
            s = torch.linalg.svdvals(x - x.mean(0)).square()
            without.append(float(s[0] / s.sum()))
        expected = math.sqrt(4 / 5 * ((np.array(without) - np.mean(without)) ** 2).sum())
        assert row[f"{name}_se"] == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dim", [2, 16, 96])
def test_constant_parts_far_from_the_shift_have_no_anisotropy(dim: int, seed: int) -> None:
    """Rounding of constant rows is not variance, if only openers vary and if only one of four groups varies."""
    g = torch.Generator().manual_seed(seed)
    constant = 10.0 ** (seed - 2) * torch.randn(dim, generator=g) if seed else torch.full((dim,), 0.3)
    openers = constant.repeat(6000, 1)
    openers[::10] += 7 * torch.randn(600, dim, generator=g)
    row = describe(openers, positions=torch.arange(6000) % 10)
    assert row["anisotropy"] is not None
    assert row["anisotropy_no_sink"] is None
    assert row["anisotropy_no_sink_se"] is None
    assert "too_few_ordinary_tokens" in row["flags"]
    fourth = constant.repeat(6000, 1)
    fourth[:1500] += constant.norm() * torch.randn(1500, dim, generator=g)
    row = describe(fourth, groups=torch.arange(6000) // 1500)
    assert row["anisotropy_se"] is None
    assert "constant_without_a_group" in row["flags"]


def test_padding_rows_leave_the_anisotropy_a_share() -> None:
    """400 zero rows of 1500 make no token a sink, so both anisotropies are equal."""
    points = curved(1500, 32)
    points[:400] = 0
    row = describe(points)
    assert row["n_sink_tokens"] == 0
    assert 0 < row["anisotropy_no_sink"] <= 1
    assert row["anisotropy_no_sink"] == pytest.approx(row["anisotropy"], rel=1e-9)


def test_mean_cosine_of_a_displaced_gaussian() -> None:
    """N(m, s^2 I) has mean cosine |m|^2 / (|m|^2 + d s^2) in many dimensions."""
    d = 1000
    x = torch.randn(1000, d, generator=torch.Generator().manual_seed(5)) + 0.5
    assert describe(x)["cosine_mean"] == pytest.approx(0.25 / 1.25, rel=5e-3)  # measured: 1e-3


def test_more_coordinates_than_tokens() -> None:
    """N <= d leaves N - 1 eigenvalues and a flag; rounding noise enters neither rank nor decay."""
    row = describe(torch.randn(60, 300, generator=torch.Generator().manual_seed(6)))
    assert "spectrum_floor" in row["flags"]
    assert row["alpha_hi"] == 59
    assert row["effective_rank_lambda"] < 60
