"""Exact neighbours against float64 brute force on clouds for which float32 products fail."""

import pytest
import torch
from torch import Tensor

from pipeline.geometry import duplicates, exact_distances
from pipeline.geometry import exact_search as search_module
from pipeline.geometry.candidates import CandidateEngine, direct_engine, faiss_engine, torch_engine
from pipeline.geometry.duplicates import find_distinct_rows
from pipeline.geometry.exact_search import search_neighbors
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.neighbors import NeighborGraph, build_exact_graph, drop_near_duplicates
from tests.support.point_clouds import brute, curved, hard_clouds, rotation, zipf

K = 40
CLOUDS = hard_clouds(1200, 256)


def merged(points: Tensor, k: int = 64) -> NeighborGraph:
    return drop_near_duplicates(build_exact_graph(points, k), k)


@pytest.mark.parametrize("engine", [faiss_engine, torch_engine])
@pytest.mark.parametrize("name", CLOUDS)
def test_lists_equal_brute_force(name: str, engine: CandidateEngine) -> None:
    """First and second neighbours are exact, distances agree to 1e-6, dimensions to 1e-7."""
    graph = build_exact_graph(CLOUDS[name], K, engine=engine)
    distances, indices = brute(CLOUDS[name], K)
    assert torch.equal(graph.indices[:, :2], indices[:, :2])
    assert graph.n_unresolved == 0
    # measured: at most 6.0e-8 and 5e-9
    torch.testing.assert_close(graph.distances, distances, rtol=1e-6, atol=0)
    for estimator in (id_twonn, id_mle):
        assert estimator(graph.distances) == pytest.approx(estimator(distances), rel=1e-7)


def test_those_clouds_do_break_raw_float32_products() -> None:
    """Guards the test above: uncentered float32 distances change the dimension by more than 10 %."""
    points = CLOUDS["offset 1000"]
    squared = torch_engine(points, points, 3).squared_distances.sort(1).values[:, 1:]
    truth = id_twonn(brute(points, 2)[0])
    assert abs(id_twonn(squared.double().clamp_min(1e-12).sqrt()) - truth) > 0.1 * truth


def three_clusters(n: int, dim: int, apart: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a curved cloud in three clusters so far apart that no shift helps: close neighbours, large norms."""
    g = torch.Generator().manual_seed(seed)
    return curved(n, dim, 1 + seed % 8, seed).to(dtype) + apart * torch.randint(-1, 2, (n, 1), generator=g)


def test_no_wrong_list_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first float32 search alone certifies no list with a wrong distance."""
    ladder = search_module._ladder
    monkeypatch.setattr(search_module, "_ladder", lambda *a: [next(iter(ladder(*a)))])
    wrong_and_certified = wrong = certified = 0
    for trial in range(100):
        points = three_clusters(300, 2 + 3 * trial, 10.0 ** (trial % 6), trial)  # from easy to impossible in float32
        lists = search_neighbors(points, 8, torch.arange(300), engine=torch_engine)
        error = ((lists.distances - brute(points, 8)[0]).abs() > 1e-6 * lists.distances).any(1)
        wrong += int(error.sum())
        certified += int(lists.certified.sum())
        wrong_and_certified += int((error & lists.certified).sum())
    assert wrong > 1000  # measured: 9094
    assert certified > 10_000  # measured: 12726
    assert wrong_and_certified == 0


@pytest.mark.parametrize(
    ("apart", "rungs"), [(1.0, ["torch"]), (1e5, ["torch", "torch"]), (1e9, ["torch", "torch", "direct"])]
)
def test_every_rung_ends_in_exact_distances(apart: float, rungs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences from every point remain when float32 and float64 products fail; nothing is unresolved."""
    used, search_with = [], search_module._search_with

    def recorded(*args: object) -> object:
        used.append(args[-1].__name__.removesuffix("_engine"))
        return search_with(*args)

    monkeypatch.setattr(search_module, "_search_with", recorded)
    points = three_clusters(300, 32, apart, seed=4, dtype=torch.float64)
    graph = build_exact_graph(points, 8, engine=torch_engine)
    assert used == rungs
    assert graph.n_unresolved == 0
    torch.testing.assert_close(graph.distances, brute(points, 8)[0], rtol=1e-12, atol=0)


def test_engines_agree() -> None:
    """FAISS, torch and direct differences as first engine give byte-identical graphs."""
    graphs = [build_exact_graph(CLOUDS["rogue 1000"], K, engine=e) for e in (faiss_engine, torch_engine, direct_engine)]
    for graph in graphs[1:]:
        assert torch.equal(graph.distances, graphs[0].distances)
        assert torch.equal(graph.indices, graphs[0].indices)


@pytest.mark.parametrize("name", ["plain", "offset 10000", "rogue 1000"])
@pytest.mark.parametrize("faiss", [True, False])
def test_nearest_differences_are_summed_in_float64(name: str, faiss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks up to FLOAT64_RANKS agree to 1e-7, all others to 5e-7, with and without FAISS."""
    if not faiss:
        monkeypatch.setattr(exact_distances, "faiss_squared_distances", lambda *_: None)
    points, rows = CLOUDS[name], torch.arange(0, 1200, 7)
    exact, others = (found[rows] for found in brute(points, K))
    found = exact_distances.pair_distances(points, rows, others)
    near = slice(exact_distances.FLOAT64_RANKS)
    torch.testing.assert_close(found[:, near], exact[:, near], rtol=1e-7, atol=0)  # measured: 6e-8
    torch.testing.assert_close(found, exact, rtol=5e-7, atol=0)  # measured: 2e-7


@pytest.mark.parametrize("engine", [None, faiss_engine, torch_engine])
@pytest.mark.parametrize("power", [-120, -70, 70, 120])
def test_squares_may_leave_the_range_of_float32(power: int, engine: CandidateEngine | None) -> None:
    """Points near the limits of float32 have the same relative distances as points of unit size."""
    points = curved(200, 96)
    scaled = build_exact_graph(points * 2.0**power, 12, engine=engine).distances * 2.0**-power
    torch.testing.assert_close(scaled, build_exact_graph(points, 12).distances, rtol=1e-6, atol=0)


def test_the_shift_changes_nothing() -> None:
    """The subsample whose median is the shift does not affect the graph."""
    graphs = [build_exact_graph(curved(5000, 8), 4, seed=seed) for seed in (0, 1)]
    assert torch.equal(graphs[0].distances, graphs[1].distances)


def test_ties_go_to_the_lowest_index() -> None:
    """Every corner of a square has two neighbours at the same distance, ordered by index."""
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    graph = build_exact_graph(square, 3)
    assert graph.indices.tolist() == [[1, 2, 3], [0, 3, 2], [0, 3, 1], [1, 2, 0]]


def test_ties_beyond_the_candidates_keep_distances_exact() -> None:
    """More points of a lattice are tied than the engine proposes."""
    lattice = torch.cartesian_prod(*[torch.arange(6.0)] * 4)
    graph = build_exact_graph(lattice, K)
    torch.testing.assert_close(graph.distances, brute(lattice, K)[0], rtol=1e-7, atol=0)
    assert graph.n_unresolved == 0


@pytest.mark.parametrize(("n", "k"), [(1, 0), (2, 1), (5, 4), (50, K)])
def test_small_clouds_have_fewer_columns(n: int, k: int) -> None:
    """A cloud of n points has at most n - 1 neighbours."""
    graph = build_exact_graph(curved(n, 16), K)
    assert graph.distances.shape == (n, k)
    if k:
        torch.testing.assert_close(graph.distances, brute(curved(n, 16), k)[0], rtol=1e-6, atol=0)


def test_translation_scale_and_rotation_leave_the_dimension() -> None:
    """Equal to 1e-12 for a power of two, 1e-6 for a translation exact in float32, 1e-4 for a rotation."""
    points = (curved(1500, 64) * 2**10).round() / 2**10
    truth = id_mle(merged(points).radii)
    assert id_mle(merged(points * 2.0**-20).radii) == pytest.approx(truth, rel=1e-12)
    assert id_mle(merged(points + 512).radii) == pytest.approx(truth, rel=1e-6)
    turned = (points.double() @ rotation(64)).float()
    assert id_mle(merged(turned).radii) == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2, 0.4])
def test_exact_duplicates_change_nothing(share: float) -> None:
    """Repeated rows in any order do not change distances and dimension of the distinct rows."""
    points = curved(1000, 64)
    repeats = points[: int(share * 1000)]
    both = torch.cat([points, repeats, repeats])[torch.randperm(1000 + 2 * len(repeats))]
    graph, clean = merged(both), merged(points)
    assert (graph.n_duplicates, len(graph.point_indices)) == (2 * len(repeats), 1000)
    assert id_mle(graph.radii) == pytest.approx(id_mle(clean.radii), rel=1e-12)
    assert int(graph.copies.sum()) == len(both)


def test_zipf_cloud_equals_its_distinct_rows() -> None:
    """6000 tokens of a Zipf vocabulary give the dimension of their distinct vectors."""
    points = zipf(6000, 6000)
    graph, clean = merged(points), merged(points.unique(dim=0))
    assert len(graph.point_indices) + graph.n_duplicates == 6000
    assert id_mle(graph.radii) == pytest.approx(id_mle(clean.radii), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_distinct_keeps_first_copies(dtype: torch.dtype) -> None:
    """The first copy of each row is returned in order with its multiplicity; 0.0 equals -0.0."""
    rows = torch.tensor([[1.0, 0.0], [2.0, 3.0], [1.0, -0.0], [2.0, 4.0], [2.0, 3.0], [1.0, 0.0]], dtype=dtype)
    kept, copies = find_distinct_rows(rows)
    assert kept.tolist() == [0, 1, 3]
    assert copies.tolist() == [3, 2, 1]


def test_hash_collisions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with equal hashes are compared; if they differ, the rows themselves are sorted."""
    monkeypatch.setattr(duplicates, "_hash", lambda points: torch.zeros(len(points), dtype=torch.int64))
    points = curved(50, 4)
    kept, copies = find_distinct_rows(torch.cat([points, points[:9]]))
    assert kept.tolist() == list(range(50))
    assert copies.tolist() == [2] * 9 + [1] * 41


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_signs_alone_do_not_collide(dtype: torch.dtype) -> None:
    """The corners of a cube, which differ in sign bits only, have distinct hashes."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=dtype)] * 10)
    assert len(duplicates._hash(corners).unique()) == 1024


@pytest.mark.parametrize("relative", [1e-7, 1e-6])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_near_duplicates_are_merged(share: float, relative: float) -> None:
    """Copies that differ by up to 1e-6 relative change the dimension by at most 5 %; unmerged, by over 30 %."""
    points = curved(1500, 64)
    n = int(share * 1500)
    noise = 1 + relative * torch.randn(n, 64, generator=torch.Generator().manual_seed(2))
    both = torch.cat([points, points[:n] * noise])
    clean, graph, naive = id_mle(merged(points).radii), merged(both), build_exact_graph(both, 64)
    assert id_mle(naive.radii) < 0.7 * clean
    assert graph.n_near_duplicates + graph.n_duplicates == n
    assert graph.point_indices.max() < 1500
    assert id_mle(graph.radii) == pytest.approx(clean, rel=0.05)


def test_merged_graph_equals_the_graph_of_what_is_left() -> None:
    """Lists repaired after the merge equal those of a new search, also within clusters larger than k."""
    points = curved(400, 32)
    cluster = points[:1] * (1 + 2e-8 * torch.randn(100, 32, generator=torch.Generator().manual_seed(3)))
    both = torch.cat([points, cluster])
    graph = drop_near_duplicates(build_exact_graph(both, 8), 8)
    again = build_exact_graph(both[graph.point_indices], 8)
    assert graph.n_near_duplicates > 90
    assert torch.equal(graph.distances, again.distances)
    assert torch.equal(graph.indices, again.indices)


def test_low_precision_with_an_offset_keeps_its_neighbours() -> None:
    """bfloat16 points with a large offset are noisy, not duplicated: only exact copies are merged."""
    points = (curved(1000, 64) + 8).to(torch.bfloat16)
    graph = merged(points)
    assert graph.n_near_duplicates == 0
    assert float((graph.rounding_noise / graph.distances[:, 0]).median()) > 0.03


def test_far_outliers_do_not_merge_a_noisy_bulk() -> None:
    """A few distant points do not set the merging scale when noise exceeds the nearest distances of the bulk."""
    points = curved(1000, 64)
    points[:20] *= 200
    assert merged((points + 32).to(torch.bfloat16)).n_near_duplicates == 0


def test_nonfinite_rows_are_left_out() -> None:
    """Rows with NaN and infinity are counted, and the graph is that of the other rows."""
    points = curved(300, 16)
    bad = points.clone()
    bad[7, 3], bad[100, 0] = torch.nan, torch.inf
    graph, clean = build_exact_graph(bad, 8), build_exact_graph(points[[i for i in range(300) if i not in (7, 100)]], 8)
    assert graph.n_nonfinite == 2
    assert torch.equal(graph.distances, clean.distances)


def test_distances_beyond_float32_are_counted_as_unresolved() -> None:
    """Points whose differences overflow have no distance and are left out of the estimates."""
    points = torch.cat([curved(200, 4), torch.tensor([[3e38, 0, 0, 0], [-3e38, 0, 0, 0]])])
    graph = build_exact_graph(points, 201)
    assert graph.n_unresolved == 2
    assert graph.radii.isfinite().all()
