"""GPU code paths without a GPU: shapes on the meta device, 16-bit products and masked sums on the CPU."""

import numpy as np
import pytest
import torch

from pipeline.corpora import Batch
from pipeline.geometry import MomentStream, PointCloud, exact_search, moments
from pipeline.geometry.candidates import default_ladder, faiss_engine, torch_engine
from pipeline.geometry.neighbors import build_exact_graph
from pipeline.measurement.sampler import HiddenStateSampler
from tests.support.point_clouds import hard_clouds

CLOUDS = hard_clouds(3000, 256)
COARSE = (torch_engine, torch.bfloat16), (torch_engine, torch.float32)


def batch(contexts: int, tokens: int, group: int) -> Batch:
    """Return a batch whose tokens all enter the moments and of which every third enters the cloud."""
    rows, kept = np.arange(contexts * tokens), np.arange(0, contexts * tokens, 3)
    return Batch(
        ids=np.zeros((contexts, tokens), np.int64),
        special_mask=np.zeros((contexts, tokens), bool),
        error_group=np.full(contexts, group),
        moment_rows=rows,
        moment_group=np.full(len(rows), group),
        moment_first=rows % tokens == 0,
        kept_rows=kept,
        kept_group=np.full(len(kept), group),
        kept_context=kept // tokens,
        kept_token=kept,
        compared_rows=kept[:0],
    )


def test_the_stream_asks_the_device_nothing() -> None:
    """No call synchronises before `finish`: every synchronisation is an error on the meta device."""
    stream = MomentStream([64, 96], [9000, 9000], 8.0, [1, None], device="meta")
    clouds = {layer: PointCloud(6000, width, torch.bfloat16, "meta") for layer, width in enumerate([64, 96])}
    sampler = HiddenStateSampler(stream, [0, 1], clouds, "meta")
    for group in (0, 1):
        for _ in range(3):
            sampler.begin_batch(batch(30, 100, group))
            for layer, width in enumerate([64, 96]):
                sampler.add_states(layer, torch.empty(30, 100, width, dtype=torch.bfloat16, device="meta"))
            sampler.end_batch()
    assert len(clouds[1]) == 6000
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        stream.finish()


def test_all_rows_with_zeros_sum_up_as_the_chosen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masked sums of the GPU path equal sums over the selected rows."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2048, 300, generator=generator, dtype=torch.float64)
    mask, shift = torch.rand(2048, generator=generator) < 0.7, torch.zeros(300, dtype=torch.float64)
    chosen = moments.Moments.from_masked_rows(y, mask, shift)
    monkeypatch.setattr(moments, "select_or_zero", lambda y, mask: y * mask[:, None])
    masked = moments.Moments.from_masked_rows(y, mask, shift)
    for name in vars(chosen):
        torch.testing.assert_close(vars(masked)[name], vars(chosen)[name], rtol=1e-11, atol=1e-11)


def test_half_of_a_scatter_is_mirrored() -> None:
    """Panels and their mirror images give the whole product."""
    y = torch.randn(500, 700, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = moments.gram(y)
    assert torch.equal(whole[:256, 256:], whole[256:, :256].T)
    torch.testing.assert_close(whole, y.T @ y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CLOUDS)
def test_candidates_of_16_bit_products_end_in_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded points propose and differences of the stored points decide: the graphs are byte-identical."""
    exact = build_exact_graph(CLOUDS[name], 32, engine=torch_engine)
    monkeypatch.setattr(exact_search, "default_ladder", lambda *_: COARSE)
    coarse = build_exact_graph(CLOUDS[name], 32)
    assert bool(coarse.resolved.all())
    assert torch.equal(coarse.distances, exact.distances)
    assert torch.equal(coarse.indices, exact.indices)


def test_16_bit_products_certify_plain_points_and_are_passed_over_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pilot queries detect that rounding hides neighbours, and only they are wasted."""
    searched: dict[torch.dtype, int] = {}
    search_with = exact_search._search_with

    def counted(points, view, rows, k, propose):
        searched[view.values.dtype] = searched.get(view.values.dtype, 0) + len(rows)
        return search_with(points, view, rows, k, propose)

    monkeypatch.setattr(exact_search, "default_ladder", lambda *_: COARSE)
    monkeypatch.setattr(exact_search, "_search_with", counted)
    build_exact_graph(CLOUDS["plain"], 32)
    assert searched[torch.bfloat16] > 3000
    assert searched.pop(torch.float32, 0) < 300
    searched.clear()
    build_exact_graph(CLOUDS["rogue 10000"], 32)
    assert searched[torch.bfloat16] <= 256


def test_lengths_belong_to_the_rounded_points() -> None:
    """Squared distances of 16-bit points are computed from the rounded values, in float32."""
    points = CLOUDS["plain"][:500].to(torch.bfloat16)
    found = torch_engine(points, points, 5)
    near = points[found.indices].double()
    direct = (near - points[:, None].double()).square().sum(2)
    assert found.squared_distances.dtype == torch.float32
    torch.testing.assert_close(found.squared_distances.double(), direct, rtol=0, atol=1e-4 * float(direct.max()))


def test_the_engine_is_chosen_by_size() -> None:
    """A GPU uses float32 for narrow points and 16-bit products for wide ones; the CPU uses float32."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert default_ladder(cpu, 100_000, 4096) == ((faiss_engine, torch.float32),)
    assert default_ladder(cpu, 1024, 4096) == ((torch_engine, torch.float32),), "a small cloud"
    assert [dtype for _, dtype in default_ladder(cuda, 100_000, 4096)] == [torch.bfloat16, torch.float32]
    assert [dtype for _, dtype in default_ladder(cuda, 100_000, 64)] == [torch.float32]
