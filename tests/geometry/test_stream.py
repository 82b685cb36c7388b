"""Streamed moments against whole-matrix references: shifts, blocks, groups, sinks, non-finite rows."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.geometry import LayerMoments, MomentStream, moments
from pipeline.geometry.metrics.anisotropy import anisotropy
from pipeline.geometry.metrics.spectrum import participation_ratio_corrected
from pipeline.geometry.moments import Moments, merge_moments
from tests.support.point_clouds import hard_clouds

CLOUDS = hard_clouds(8192, 96)


def streamed(
    layers: list[Tensor], cuts: list[int], first: Tensor, group: Tensor, following: list[int | None] | None = None
) -> list[LayerMoments]:
    """Stream whole layers in batches that end at `cuts`."""
    stream = MomentStream([x.shape[1] for x in layers], group.bincount().tolist(), 8.0, following)
    for start, stop in zip([0, *cuts], [*cuts, len(group)], strict=True):
        for index, layer in enumerate(layers):
            stream.add_states(index, layer[start:stop])
        stream.end_batch(first[start:stop], group[start:stop])
    return stream.finish()


def stream_one(points: Tensor) -> LayerMoments:
    """Stream all rows as one group in which no row opens a context."""
    none = torch.zeros(len(points), dtype=torch.bool)
    return streamed([points], [], none, torch.zeros(len(points), dtype=torch.int64))[0]


def reference(points: Tensor) -> tuple[float, float]:
    """Return anisotropy and trace from the float64 singular values of the centered matrix."""
    wide = points.double()
    squares = torch.linalg.svdvals(wide - wide.mean(0)).square()
    return float(squares[0] / squares.sum()), float(squares.sum() / (len(points) - 1))


@pytest.mark.parametrize("name", CLOUDS)
def test_one_pass_equals_the_svd(name: str) -> None:
    """Anisotropy and trace equal those of the SVD of the centered matrix."""
    whole = stream_one(CLOUDS[name]).every.pooled
    expected = reference(CLOUDS[name])
    # measured: at most 6e-14
    assert (anisotropy(whole), float(whole.covariance().trace())) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CLOUDS)
def test_float32_products_suffice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is below 1e-6 with float32 products, as on GPUs with slow float64."""
    monkeypatch.setattr(moments, "product_dtype", lambda device: torch.float32)
    whole = stream_one(CLOUDS[name]).every.pooled
    assert (anisotropy(whole), float(whole.covariance().trace())) == pytest.approx(reference(CLOUDS[name]), rel=1e-6)


def test_without_a_shift_float32_products_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test above: without the shift the error exceeds 1e-3."""
    monkeypatch.setattr(moments, "product_dtype", lambda device: torch.float32)
    points = CLOUDS["offset 10000"]
    sums = Moments.empty(torch.zeros(points.shape[1]))
    for block in points.split(2048):
        sums.add_rows(block)
    assert abs(anisotropy(sums) / reference(points)[0] - 1) > 1e-3


@pytest.mark.parametrize("cuts", [[1], [100, 2048, 2049, 5000], list(range(64, 6000, 64))])
def test_batches_change_no_byte(cuts: list[int]) -> None:
    """Every sum is byte-identical for every division into batches."""
    points = CLOUDS["massive 100"][:6000]
    group = (torch.arange(6000) >= 2500).long()
    first = torch.arange(6000) % 50 == 0
    layers, following = [points, points.square()[:, :32]], [1, None]
    whole, cut = (streamed(layers, c, first, group, following) for c in ([], cuts))
    for a, b in zip(whole, cut, strict=True):
        for left, right in zip(
            [*a.every.moments, *a.ordinary.moments, *a.every.directions, *a.ordinary.directions, a.sink_sums],
            [*b.every.moments, *b.ordinary.moments, *b.every.directions, *b.ordinary.directions, b.sink_sums],
            strict=True,
        ):
            assert all(torch.equal(torch.as_tensor(vars(left)[f]), torch.as_tensor(vars(right)[f])) for f in vars(left))
        assert torch.equal(a.norm_statistics.sample, b.norm_statistics.sample)
    crosses = [[*layers[0].every.cross_scatters, *layers[0].ordinary.cross_scatters] for layers in (whole, cut)]
    assert len(crosses[0]) == 4
    assert all(map(torch.equal, *crosses))


def test_groups_and_sinks_merge_to_the_whole() -> None:
    """Moments of ordinary and sink tokens of all groups add up to those of all tokens."""
    points = CLOUDS["massive 100"][:3000].double()
    (layer,) = streamed([points], [], torch.arange(3000) % 30 == 0, torch.arange(3000) // 1000)
    torch.testing.assert_close(layer.every.pooled.covariance(), points.T.cov(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.every.pooled.mean, points.mean(0), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(layer.every.moments[1].covariance(), points[1000:2000].T.cov(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.every.pooled.second_moment(), points.T @ points / 3000, rtol=1e-10, atol=1e-12)


def test_merge_is_addition_of_rows() -> None:
    """Two merged halves equal one pass in every sum; different shifts are refused."""
    points = CLOUDS["plain"].double()
    halves = [Moments.empty(points[0]) for _ in range(2)]
    both = Moments.empty(points[0])
    for half, rows in zip(halves, points.split(4096), strict=True):
        half.add_rows(rows)
        both.add_rows(rows)
    merged = merge_moments(halves)
    assert all(torch.equal(torch.as_tensor(vars(merged)[f]), torch.as_tensor(vars(both)[f])) for f in vars(both))
    assert merged.count == 8192
    with pytest.raises(ValueError, match="different shifts"):
        merged + Moments.empty(points[1])


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(1, 2999), max_size=30))
def test_batches_of_any_size_change_no_byte(cuts: set[int]) -> None:
    """Sums are byte-identical for random batch sizes."""
    points, group, first = CLOUDS["rogue 100"][:3000], torch.arange(3000) // 1100, torch.arange(3000) % 25 == 0
    (whole,), (cut,) = (streamed([points], ends, first, group) for ends in ([], sorted(cuts)))
    assert torch.equal(whole.every.pooled.scatter, cut.every.pooled.scatter)
    assert torch.equal(whole.every.pooled.cubic_sum, cut.every.pooled.cubic_sum)
    assert torch.equal(whole.norm_statistics.sample, cut.norm_statistics.sample)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 1999), max_size=6, unique=True), st.randoms(use_true_random=False))
def test_shards_of_any_size_merge_in_any_order(cuts: list[int], shuffle: Random) -> None:
    """Rows or shards in another order give the moments of one pass up to rounding."""
    points = CLOUDS["massive 100"][:2000].double()
    shards = list(points.tensor_split(sorted(cuts)))
    shuffle.shuffle(shards)
    parts = [Moments.empty(points[0]) for _ in shards]
    for part, rows in zip(parts, shards, strict=True):
        part.add_rows(rows)
    whole = stream_one(points).every.pooled
    for sums in (merge_moments(parts), stream_one(torch.cat(shards)).every.pooled):
        torch.testing.assert_close(sums.covariance(), whole.covariance(), rtol=1e-9, atol=1e-9)
        assert anisotropy(sums) == pytest.approx(anisotropy(whole), rel=1e-9)
        assert participation_ratio_corrected(sums) == pytest.approx(participation_ratio_corrected(whole), rel=1e-9)


def test_sinks_are_openers_and_long_rows() -> None:
    """Sinks are exactly the rows that open their context or whose norm exceeds eight pilot norms."""
    g = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(1000, 16, generator=g))
    points[[5, 700]] *= 8.01
    points[[6, 701]] *= 7.99
    first = torch.zeros(1000, dtype=torch.bool)
    first[[0, 500]] = True
    (layer,) = streamed([points], [300], first, torch.zeros(1000, dtype=torch.int64))
    assert layer.pilot_norm == pytest.approx(1, abs=1e-6)
    assert layer.sink_sums.count == 4
    expected = points[[0, 5, 500, 700]].double()
    torch.testing.assert_close(layer.sink_sums.mean, expected.mean(0))


@pytest.mark.parametrize("zeros", [256, 400, 511, 512, 600])
def test_zero_rows_make_no_sinks_of_the_others(zeros: int) -> None:
    """Zero rows do not enter the pilot norm if at least half are zero; without others only openers are sinks."""
    points = torch.nn.functional.normalize(torch.randn(1500, 16, generator=torch.Generator().manual_seed(0)))
    points[:zeros] = 0
    points[1200] *= 9
    first = torch.zeros(1500, dtype=torch.bool)
    first[[0, 700]] = True
    (layer,) = streamed([points], [1500], first, torch.zeros(1500, dtype=torch.int64))
    assert layer.pilot_norm == pytest.approx(float(zeros < 512), abs=1e-6)
    assert layer.sink_sums.count == (3 if zeros < 512 else 2)


def test_nonfinite_rows_are_left_out_of_every_sum() -> None:
    """Sums are those of the finite rows, even if the whole first block is not finite."""
    points = CLOUDS["plain"][:5000].clone()
    clean = points[torch.arange(5000) >= 2100]
    points[:2100, 3] = torch.nan
    layer = stream_one(points)
    assert layer.n_nonfinite == 2100
    assert layer.every.pooled.count == 2900
    torch.testing.assert_close(layer.every.pooled.covariance(), clean.double().T.cov(), rtol=1e-10, atol=1e-12)


def test_only_nonfinite_rows_leave_empty_sums() -> None:
    """The count is zero without finite rows."""
    layer = stream_one(torch.full((10, 4), torch.inf))
    assert (layer.every.pooled.count, layer.n_nonfinite) == (0, 10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rows_enter_in_their_own_dtype(dtype: torch.dtype) -> None:
    """Rows of any dtype are accumulated without further rounding."""
    points = CLOUDS["plain"][:3000].to(dtype)
    layer = stream_one(points)
    assert layer.dtype == dtype
    torch.testing.assert_close(layer.every.pooled.covariance(), points.double().T.cov(), rtol=1e-10, atol=1e-12)
    exact = points.double().norm(dim=1).sort().values
    torch.testing.assert_close(layer.norm_statistics.sample.double().sort().values, exact, rtol=1e-7, atol=0)


def test_wrong_rows_are_refused() -> None:
    """A layer without rows, a batch of wrong length and missing rows at the end raise ValueError."""
    stream = MomentStream([4, 4], [3], 8.0)
    stream.add_states(0, torch.ones(3, 4))
    labels = torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="every layer"):
        stream.end_batch(*labels)
    stream.add_states(1, torch.ones(2, 4))
    with pytest.raises(ValueError, match="every layer"):
        stream.end_batch(*labels)
    with pytest.raises(ValueError, match="rows missing in each group"):
        stream.finish()
