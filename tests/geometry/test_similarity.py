"""Similarity records and comparisons: against float64 references on whole matrices, closed forms and other code."""

import json

import numpy as np
import pytest
import torch

from pipeline.geometry.similarity import record_layer
from pipeline.similarity.kernels import KernelStack, compare_kernels, permuted_cka
from pipeline.similarity.masked_kernels import compare_masked_kernels
from pipeline.similarity.neighbours import (
    NeighbourStack,
    compare_neighbours,
    expected_overlap,
    information_imbalance,
    permuted_overlap,
)
from pipeline.similarity.record import ComparedTokens, LayerRecord, first_of_each
from pipeline.similarity.settings import Similarity
from tests.support import similarity_oracle as oracle

SETTINGS = Similarity(ranks=True)
ORACLE = json.loads(oracle.RESULTS.read_text())


def record(points: np.ndarray, **fields: object) -> LayerRecord:
    found = record_layer(torch.from_numpy(points), SETTINGS.model_copy(update=fields))
    assert found is not None
    return found


def cka(a: LayerRecord, b: LayerRecord, tokens: ComparedTokens | None = None):
    tokens = tokens or ComparedTokens.every(a.n_tokens)
    return compare_kernels(KernelStack([a], tokens), KernelStack([b], tokens))


def overlap(a: LayerRecord, b: LayerRecord, k: int, tokens: ComparedTokens | None = None) -> float:
    tokens = tokens or ComparedTokens.every(a.n_tokens)
    return float(compare_neighbours(NeighbourStack([a], tokens, k), NeighbourStack([b], tokens, k)).value[0, 0])


def whole_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Debiased CKA by Song et al. 2012, equation 5, from whole matrices."""
    n, ones = len(a), np.ones(len(a))

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        mean = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return float(np.trace(k @ m) + mean - 2 / (n - 2) * ones @ k @ m @ ones)

    kernels = [x @ x.T - np.diag((x**2).sum(1)) for x in (a - a.mean(0), b - b.mean(0))]
    return hsic(*kernels) / np.sqrt(hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1]))


def spectral_cloud(rng: np.random.Generator, n: int = 300, dim: int = 200, power: float = 1.0) -> np.ndarray:
    return rng.standard_normal((n, dim)) * np.arange(1, dim + 1) ** -power


@pytest.mark.parametrize("name", ORACLE)
def test_other_packages_agree(name: str) -> None:
    """CKA from the HSIC of whole kernels by repsim within the stated bound; overlap and imbalance by DADApy to 1e-6."""
    a, b = (record(points) for points in oracle.clouds()[name])
    wanted = ORACLE[name]
    found = cka(a, b)
    assert abs(found.value[0, 0] - wanted["debiased_cka"]) <= found.bound[0, 0] + 1e-9
    for k, value in wanted["overlap"].items():
        assert overlap(a, b, int(k)) == pytest.approx(value, abs=1e-6)
    every = ComparedTokens.every(200)
    imbalance = information_imbalance(a, b, every)
    assert imbalance == pytest.approx(wanted["imbalance"], abs=1e-6)


@pytest.mark.parametrize("name", ORACLE)
def test_the_reference_of_these_tests_is_that_of_repsim(name: str) -> None:
    assert whole_cka(*oracle.clouds()[name]) == pytest.approx(ORACLE[name]["debiased_cka"], abs=1e-10)


@pytest.mark.parametrize("rank", [4, 32, 120])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_cka_is_within_its_bound_of_the_whole_matrices(rank: int, power: float) -> None:
    """Bounds of 0.61 (rank 4, power 0.5) to 0.0001; errors are at most a twentieth of them."""
    rng = np.random.default_rng(rank)
    a = spectral_cloud(rng, power=power)
    b = a @ rng.standard_normal((200, 150)) / 14 + 0.3 * spectral_cloud(rng, dim=150, power=power)
    found = cka(record(a, rank=rank), record(b, rank=rank))
    error = abs(found.value[0, 0] - whole_cka(a, b))
    print(f"rank {rank}, power {power}: error {error:.4f}, bound {found.bound[0, 0]:.4f}")
    assert error <= found.bound[0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_masked_tokens_and_left_out_groups_are_those_of_the_smaller_matrices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = spectral_cloud(rng, power=1.5)
    b = a + 0.2 * spectral_cloud(rng)
    tokens = ComparedTokens(np.arange(300) * 4 // 300, rng.random(300) > 0.2)
    found = cka(record(a), record(b), tokens)
    keep = tokens.keep
    assert abs(found.value[0, 0] - whole_cka(a[keep], b[keep])) <= found.bound[0, 0]
    full = cka(record(a, rank=199), record(b, rank=199), tokens)
    for g in range(4):
        rest = keep & (tokens.group != g)
        assert full.without[g, 0, 0] == pytest.approx(whole_cka(a[rest], b[rest]), abs=2e-3)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("n", [16, 64, 256])
def test_a_layer_that_is_constant_but_for_one_token_has_no_cka(n: int, kept: bool) -> None:
    """Its U-centred kernel is zero; from rounding, the CKA with itself used to be 0.004, 1 or minus infinity."""
    rng = np.random.default_rng(n)
    points = np.tile(rng.standard_normal(40), (n, 1))
    points[3] += rng.standard_normal(40)
    tokens = ComparedTokens(np.arange(n) * 4 // n, (np.arange(n) != 3) | kept)
    one, other = (record(each, tokens=64, rank=12, neighbours=8) for each in (points, rng.standard_normal((n, 40))))
    for pair in ((one, one), (one, other), (other, one)):
        found = cka(*pair, tokens)
        assert np.isnan(found.value).all()
        assert np.isnan(found.without).all()
        assert np.isnan(permuted_cka(*pair, tokens, 5, rng)).all()
    stack = KernelStack([one, other], tokens)
    assert np.isfinite(compare_kernels(stack, stack).value).tolist() == [[False, False], [False, True]]
    masks = np.stack([tokens.keep] * 2)
    assert np.isfinite(compare_masked_kernels([one, other], masks)).tolist() == [[False, False], [False, True]]


def test_ordinary_tokens_beside_sinks_of_a_thousand_times_their_norm_have_a_cka() -> None:
    rng = np.random.default_rng(0)
    points = spectral_cloud(rng, dim=30)
    sinks = points + 1e4 * (np.arange(300) < 3)[:, None] * rng.standard_normal(30)
    tokens = ComparedTokens(np.arange(300) * 4 // 300, np.arange(300) >= 3)
    found = cka(record(points), record(sinks), tokens)
    assert found.value[0, 0] > 0.9
    assert np.isfinite(found.without).all()


def test_rotation_scale_and_shift_change_nothing() -> None:
    rng = np.random.default_rng(0)
    points = spectral_cloud(rng)
    turned = 7 * points @ np.linalg.qr(rng.standard_normal((200, 200)))[0] + 100
    a, b = record(points), record(turned)
    assert cka(a, b).value[0, 0] == pytest.approx(1, abs=1e-5)
    assert [overlap(a, b, k) for k in (1, 4, 16)] == [1, 1, 1]
    assert information_imbalance(a, b, ComparedTokens.every(300)) == pytest.approx((2 / 300, 2 / 300))
    other = record(spectral_cloud(rng) + 0.5 * points)
    assert cka(a, other).value[0, 0] == pytest.approx(cka(b, other).value[0, 0], abs=1e-4)


def test_independent_clouds_read_zero_at_any_width() -> None:
    """Mean over 40 pairs of 64 tokens in 512 dimensions, where the naive CKA is 0.9; the overlap is k / (P - 1)."""
    values, shares = [], {1: [], 4: [], 16: []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = (record(rng.standard_normal((64, 512)), tokens=64) for _ in range(2))
        values.append(cka(a, b).value[0, 0])
        for k in shares:
            shares[k].append(overlap(a, b, k))
    print(f"CKA {np.mean(values):.4f} +- {np.std(values) / 40**0.5:.4f}")
    assert abs(np.mean(values)) < 3 * np.std(values) / 40**0.5
    for k, found in shares.items():
        assert np.mean(found) == pytest.approx(expected_overlap(k, 64), abs=3 * np.std(found) / 40**0.5)


@pytest.mark.parametrize("shared", [0.25, 0.5, 0.75])
def test_subspaces_that_share_dimensions_have_the_closed_form(shared: float) -> None:
    """Isotropic clouds of d dimensions of which s are shared have CKA s / d: 0.5 for half-shared subspaces."""
    rng, d, n = np.random.default_rng(1), 16, 1000
    s = int(shared * d)
    points = rng.standard_normal((n, 2 * d - s))
    a, b = record(points[:, :d], tokens=n), record(points[:, d - s :], tokens=n)
    assert cka(a, b).value[0, 0] == pytest.approx(shared, abs=0.03)


def test_the_record_has_exact_neighbours_also_of_equal_states() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((60, 5)).astype(np.float32)[rng.integers(0, 60, 200)]
    found = record(points, tokens=200)
    distances = ((points[:, None].astype(float) - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)
    lists = found.neighbours.astype(int)
    assert found.ranks is not None
    assert np.take_along_axis(distances, lists, 1) == pytest.approx(nearest[:, :16], abs=1e-9)
    assert (np.take_along_axis(found.ranks, lists, 1) == np.arange(1, 17)).all()
    assert (np.sort(found.ranks, axis=1) == np.arange(200)).all()
    centred = points - points.astype(float).mean(0)
    kernel = centred @ centred.T
    assert found.trace == pytest.approx(np.trace(kernel))
    assert found.sum_of_squares == pytest.approx((kernel**2).sum())
    assert found.diagonal == pytest.approx(np.diag(kernel), rel=1e-6)
    assert found.values[:5] == pytest.approx(np.linalg.svd(centred)[1], rel=1e-9)


def test_repeated_states_have_an_order_that_follows_from_the_layer() -> None:
    """Unrelated layers of 256 tokens of 100 types used to share 0.033 of 4 neighbours, and 78 % had a p of 5 %."""
    shares = 1 / np.arange(1, 101)
    every, values, small = ComparedTokens.every(256), [], 0

    def layer(rng: np.random.Generator) -> LayerRecord:
        types = rng.choice(100, 256, p=shares / shares.sum())
        return record(rng.standard_normal((100, 16))[types], tokens=256, ranks=False)

    for seed in range(60):
        rng = np.random.default_rng(seed)
        a, b = layer(rng), layer(rng)
        values.append(overlap(a, b, 4))
        small += (permuted_overlap(a, b, every, 4, 99, rng) >= values[-1]).sum() < 5
    print(f"mean overlap {np.mean(values):.4f}, p of 5 % in {small} of 60")
    assert np.mean(values) == pytest.approx(expected_overlap(4, 256), abs=3 * np.std(values) / 60**0.5)
    assert small <= 8
    again = [layer(np.random.default_rng(0)).neighbours for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_states_without_geometry_have_no_record() -> None:
    assert record_layer(torch.ones(64, 4), SETTINGS) is None
    assert record_layer(torch.full((64, 4), torch.nan), SETTINGS) is None


def test_one_token_per_type_removes_the_similarity_of_token_identity() -> None:
    """Two layers that only know the token's type overlap; with one occurrence of each type they do not."""
    rng = np.random.default_rng(0)
    types = rng.integers(0, 40, 400)
    a, b = (rng.standard_normal((40, 30))[types] + 0.01 * rng.standard_normal((400, 30)) for _ in range(2))
    one, two = record(a), record(b)
    every = ComparedTokens.every(400)
    control = every.only(first_of_each(types))
    assert cka(one, two).value[0, 0] > 0.03
    assert overlap(one, two, 4) > 0.3
    assert abs(cka(one, two, control).value[0, 0]) < 0.2
    assert overlap(one, two, 1, control) < 0.5 or np.isnan(overlap(one, two, 1, control))


def test_permutations_reject_unrelated_layers_in_five_percent() -> None:
    """Rejections at 5 % of 100 unrelated pairs; related ones are found in every pair."""
    rejected = {"cka": 0, "overlap": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a, b = (record(spectral_cloud(rng, 64, 20), tokens=64, rank=20) for _ in range(2))
        every = ComparedTokens.every(64)
        rejected["cka"] += (permuted_cka(a, b, every, 99, rng) >= cka(a, b).value[0, 0]).sum() < 5
        rejected["overlap"] += (permuted_overlap(a, b, every, 4, 99, rng) >= overlap(a, b, 4)).sum() < 5
    print(rejected)
    assert max(rejected.values()) <= 11
