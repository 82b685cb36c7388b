"""Memory of a measurement: independent of the corpus, and several passes when not all layers fit."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import measure
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.measurement import memory
from pipeline.measurement.loaded_checkpoint import LoadedCheckpoint, load_checkpoint
from pipeline.spec import Cell, Resources
from tests.support import tiny_checkpoints as tiny
from tests.support.tiny_cells import CPU, cell, numbers

ROOT = Path(__file__).resolve().parent.parent
MEASURE = """
import resource, sys
from pathlib import Path
from tests.support.tiny_cells import measured
measured(Path(sys.argv[1]), int(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "step1", seed=1)


@pytest.mark.parametrize("plan", [[[0], [1], [2], [3]], [[0, 1], [2, 3]]])
def test_layers_in_several_passes_give_the_same_bytes(folder, monkeypatch, plan):
    wanted = cell(folder)
    opened = load_checkpoint(wanted.checkpoint, wanted.recipe, CPU)
    assert measure.assign_layers_to_passes(_inputs(wanted, opened)) == [[0, 1, 2, 3]]
    whole = numbers(measure.measure(wanted, opened, 64))
    monkeypatch.setattr(measure, "plan_passes", lambda *_: plan)
    assert numbers(measure.measure(wanted, opened, 256)) == whole
    assert whole[1]["linearity"] is not None
    assert whole[1]["n_sink_tokens"] == whole[3]["n_sink_tokens"] > 0


def test_a_full_device_means_a_pass_per_layer(folder, monkeypatch):
    wanted = cell(folder)
    opened = load_checkpoint(wanted.checkpoint, wanted.recipe, CPU)
    monkeypatch.setattr(measure, "free_bytes", lambda device: 2**20)
    assert measure.assign_layers_to_passes(_inputs(wanted, opened)) == [[0], [1], [2], [3]]


def test_tasks_at_once_share_the_memory(folder):
    shared = load_checkpoint(inspect_checkpoint(folder), cell(folder).recipe, Resources(cpus=4, slots=4))
    assert shared.concurrent_tasks == 4


def test_a_container_s_limit_is_what_is_free(tmp_path, monkeypatch):
    for name, text in {
        "memory.max": "1000000",
        "memory.current": "700000",
        "memory.stat": "inactive_file 200000",
    }.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_bytes("cpu") == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes("cpu") > 2**20


def peak_kib(folder: Path, length: int) -> int:
    command = [sys.executable, "-c", MEASURE, str(folder), str(length)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[-1])


@pytest.mark.slow
def test_a_corpus_of_sixteen_times_the_length_takes_no_more_memory(folder):
    assert peak_kib(folder, 16) <= 1.05 * peak_kib(folder, 1)


def _inputs(wanted: Cell, opened: LoadedCheckpoint) -> measure.CellInputs:
    model = opened.model
    text = measure.build_contexts(
        wanted.corpus,
        wanted.recipe,
        opened.tokenizer,
        model.vocab_size,
        model.max_positions,
        wanted.checkpoint.tokenizer_digest,
    )
    return measure.CellInputs(model.stack(wanted.kind), text, wanted.recipe, opened, 64, "cell")
