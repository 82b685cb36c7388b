"""CUDA device: same results as on the CPU, no synchronisation in the stream, memory as planned."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from pipeline import measure
from pipeline.geometry import MomentStream, describe, to_device
from pipeline.geometry.candidates import torch_engine
from pipeline.geometry.memory_plan import pass_bytes
from pipeline.geometry.neighbors import build_exact_graph
from pipeline.geometry.precision import product_dtype
from pipeline.measurement.loaded_checkpoint import load_checkpoint
from pipeline.measurement.sampler import HiddenStateSampler
from pipeline.spec import Cell, Resources
from tests.support import tiny_checkpoints as tiny
from tests.support.gpu_cells import HEADLINES, cell
from tests.support.point_clouds import hard_clouds

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CLOUDS = hard_clouds(4000, 512)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Raise on any call that synchronises the host with the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class UnsynchronisedSampler(HiddenStateSampler):
    """Sampler that raises on synchronisation with the device."""

    def begin_batch(self, batch):
        with no_synchronisation():
            super().begin_batch(batch)

    def add_states(self, layer, hidden):
        with no_synchronisation():
            super().add_states(layer, hidden)

    def end_batch(self):
        with no_synchronisation():
            super().end_batch()


def measured(wanted: Cell, gpus: int, batch_tokens: int) -> list[dict]:
    loaded = load_checkpoint(wanted.checkpoint, wanted.recipe, Resources(cpus=1, gpus=gpus))
    return measure.measure(wanted, loaded, batch_tokens)


def test_guard_the_debug_mode_sees_a_question() -> None:
    with pytest.raises(RuntimeError, match="synchroniz"), no_synchronisation():
        torch.ones(3, device="cuda").sum().item()


def test_a_checkpoint_has_the_numbers_of_the_cpu_and_the_stream_never_waits(tmp_path, monkeypatch):
    wanted = cell(tiny.checkpoint(tmp_path / "step1", seed=1))
    monkeypatch.setattr(measure, "HiddenStateSampler", UnsynchronisedSampler)
    on_gpu, on_cpu = measured(wanted, 1, 512), measured(wanted, 0, 512)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        for name in HEADLINES:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_batch_size_changes_no_headline(tmp_path):
    wanted = cell(tiny.checkpoint(tmp_path / "step1", seed=1))
    for ours, theirs in zip(measured(wanted, 1, 64), measured(wanted, 1, 4096), strict=True):
        assert {name: ours[name] for name in HEADLINES} == pytest.approx({n: theirs[n] for n in HEADLINES}, rel=1e-4)


@pytest.mark.parametrize("name", CLOUDS)
def test_a_matrix_has_the_numbers_of_the_cpu(name):
    points, contexts = CLOUDS[name], torch.arange(4000) // 40
    ours, theirs = (describe(x, contexts=contexts, groups=contexts // 25) for x in (points.cuda(), points))
    assert (ours["flags"], ours["n_points"]) == (theirs["flags"], theirs["n_points"])
    for column in HEADLINES:
        assert ours.get(column) == pytest.approx(theirs.get(column), rel=1e-4), column


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("engine", [None, torch_engine], ids=["as chosen", "float32"])
def test_neighbours_are_those_of_the_cpu(name, engine):
    ours, theirs = build_exact_graph(CLOUDS[name].cuda(), 32, engine=engine), build_exact_graph(CLOUDS[name], 32)
    assert bool(ours.resolved.all())
    torch.testing.assert_close(ours.distances.cpu(), theirs.distances, rtol=1e-6, atol=0)
    assert (ours.indices.cpu() == theirs.indices).double().mean() > 0.999


def test_16_bit_products_certify_plain_points():
    """Few rows of wide points need the float32 search; the 16-bit search runs on tensor cores."""
    from pipeline.geometry import exact_search

    points = CLOUDS["plain"].cuda()
    shift = points.median(0).values.double()
    view = exact_search._View.of(points, shift, torch.bfloat16)
    found = exact_search._search_with(points, view, torch.arange(4000, device="cuda"), 32, torch_engine)
    assert found.certified.double().mean() > 0.95


def test_a_stream_takes_the_memory_that_was_planned():
    widths, groups, rows = [2048] * 4, 3, 4096
    following = [1, 2, 3, None]
    product_dtype("cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    stream = MomentStream(widths, [rows] * groups, 8.0, following, "cuda")
    for group in range(groups):
        for layer, width in enumerate(widths):
            stream.add_states(layer, torch.randn(rows, width, device="cuda", dtype=torch.bfloat16))
        stream.end_batch(torch.zeros(rows, dtype=torch.bool), torch.full((rows,), group))
    allocated = torch.cuda.memory_allocated() - before
    planned = pass_bytes(widths, 0, groups, torch.bfloat16)
    assert 0.7 * planned < allocated <= planned


def test_copies_to_the_device_are_queued():
    with no_synchronisation():
        copy = to_device(torch.arange(1000), "cuda")
        copy += 1
    assert copy.sum().item() == 500_500
