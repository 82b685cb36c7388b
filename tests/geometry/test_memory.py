"""Memory of a stream: independent of its length, planned before the first batch; median norm from a sample."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import MomentStream, accumulator, plan_passes
from pipeline.geometry.accumulator import NormStatistics
from pipeline.geometry.memory_plan import describe_bytes, pass_bytes

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
STREAM = """
import resource, sys
import torch
from pipeline.geometry import MomentStream, PointCloud
n, dim = int(sys.argv[1]) * 8192, 64
stream, cloud = MomentStream([dim, dim], [n // 2, n // 2], 8.0, [1, None]), PointCloud(1000, dim, torch.float32)
generator = torch.Generator().manual_seed(0)
cloud.append(torch.randn(1000, dim, generator=generator))
for start in range(0, n, 4096):
    rows = torch.randn(4096, dim, generator=generator)
    stream.add_states(0, rows)
    stream.add_states(1, rows.tanh())
    stream.end_batch(torch.arange(4096) % 64 == 0, torch.full((4096,), int(start >= n // 2)))
stream.finish()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(script: str, *arguments: str) -> int:
    """Return the peak resident memory of a new process that runs `script`."""
    command = [sys.executable, "-c", script, *arguments]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[-1])


def test_a_stream_of_sixteen_times_the_length_takes_no_more_memory() -> None:
    """Storing the rows would need 60 MiB more; allowed are 5 % of a process that has imported torch."""
    # measured: 0.2 %
    assert peak_kib(STREAM, "16") <= 1.05 * peak_kib(STREAM, "1")


WIDTHS = st.lists(st.integers(1, 512), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(WIDTHS, st.integers(1, 4000), st.integers(1, 6), st.floats(0, 3))
def test_passes_cover_every_layer_once_and_fit(widths: list[int], n_points: int, groups: int, share: float) -> None:
    """For any free memory, every layer is in one pass, in order; a pass of several layers fits with its next layer."""
    room = int(share * pass_bytes(widths, n_points, groups, torch.float32))
    plan = plan_passes(widths, n_points, groups, torch.float32, room + describe_bytes(max(widths), n_points))
    assert [layer for layers in plan for layer in layers] == list(range(len(widths)))
    for layers in plan:
        needed = pass_bytes(widths[layers[0] : layers[-1] + 2], n_points, groups, torch.float32)
        assert len(layers) == 1 or needed <= room
    assert len(plan) == 1 or share < 1


def test_a_large_model_on_a_large_and_on_a_small_card() -> None:
    """34 states of width 4096 in five groups: 46 GB of scatters and 44 GB of cross scatters."""
    widths, points = [4096] * 34, 20_480
    assert pass_bytes(widths, points, 5, torch.bfloat16) == pytest.approx(95.9e9, rel=0.01)
    assert len(plan_passes(widths, points, 5, torch.bfloat16, 120 * 10**9)) == 1
    small = plan_passes(widths, points, 5, torch.bfloat16, 20 * 10**9)
    assert [len(layers) for layers in small] == [4, 4, 4, 4, 4, 4, 4, 4, 2]


def stream_bytes(stream: MomentStream) -> int:
    """Return the bytes of all tensors reachable from a stream, each storage counted once."""
    storages: dict[int, int] = {}

    def visit(thing: object) -> None:
        if isinstance(thing, torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, list | tuple):
            for part in thing:
                visit(part)
        elif type(thing).__module__.startswith("pipeline."):
            visit(list(vars(thing).values()))

    visit(stream)
    return sum(storages.values())


@pytest.mark.parametrize("groups", [1, 5])
def test_a_stream_holds_what_the_plan_counts(groups: int) -> None:
    """The planned bytes are an upper bound of the actual tensors, and less than 1.7 times as large."""
    widths, rows = [256, 256, 192], 3000
    stream = MomentStream(widths, [rows] * groups, 8.0, [1, 2, None])
    for group in range(groups):
        for layer, width in enumerate(widths):
            stream.add_states(layer, torch.randn(rows, width))
        stream.end_batch(torch.zeros(rows, dtype=torch.bool), torch.full((rows,), group))
    counted = pass_bytes(widths, 0, groups, torch.float32)
    assert 0.6 * counted < stream_bytes(stream) <= counted


def sampled_median(norms: torch.Tensor, sample: int, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(accumulator, "NORM_SAMPLE", sample)
    statistics = NormStatistics(len(norms), CPU)
    for block in norms.split(2048):
        statistics.add(block, torch.ones(len(block), dtype=torch.bool))
    assert len(statistics.sample) <= 1.05 * sample
    return float(statistics.sample.median())


@pytest.mark.parametrize("stride", [1, 4, 16])
def test_the_sampled_median_errs_by_less_than_its_own_error(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Error against the exact median of drifting log-normal norms, in standard errors; zero if all norms fit."""
    n, errors = 2**17, []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        drift = torch.linspace(0, 0.3, n, dtype=torch.float64)
        logs = drift + 0.2 * torch.randn(n, generator=generator, dtype=torch.float64)
        norms = logs.exp()
        own_error = float(norms.median()) * 1.2533 * float(logs.std()) / math.sqrt(n)
        exact = float(norms.float().median())
        errors.append((sampled_median(norms, -(-n // stride), monkeypatch) - exact) / own_error)
    # measured: 0 at 1, 0.05 at 4, 0.26 at 16
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) <= {1: 0.0, 4: 0.1, 16: 0.4}[stride]


def test_the_sampled_median_of_equal_norms_is_that_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a norm layer all tokens have one length; a histogram would return a bin instead."""
    assert sampled_median(torch.full((10_000,), 27.7, dtype=torch.float64), 1000, monkeypatch) == pytest.approx(27.7)


def test_rows_that_are_not_finite_are_in_no_norm() -> None:
    """Maximum and sample ignore them."""
    found, norms = NormStatistics(4, CPU), torch.tensor([2.0, 0.0, 3.0, 0.0], dtype=torch.float64)
    found.add(norms, torch.tensor([True, True, True, False]))
    assert (found.largest, found.sample.tolist()) == (3.0, [0.0, 2.0, 3.0])
