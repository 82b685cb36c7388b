"""Body of a task: its model cache, and the failure class of each exception."""

import ctypes
import mmap
import os
import socket
from pathlib import Path
from threading import Event

import pytest
import torch

from pipeline import errors, measure
from pipeline.columns import column_names
from pipeline.lake import Lake, open_lake
from pipeline.measurement import memory
from pipeline.measurement.loaded_checkpoint import load_checkpoint
from pipeline.spec import Cell, Resources
from pipeline.sweep import worker
from pipeline.sweep.backend import InlineBackend, TaskFunctions
from pipeline.sweep.task import Task
from pipeline.sweep.worker import classify_error
from tests.support import tiny_checkpoints as tiny
from tests.support.tiny_cells import cell


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (errors.CheckpointError("a", "b", "c"), "permanent"),
        (errors.CorpusError("a", "b", "c"), "permanent"),
        (errors.FetchError("a", "b", "c"), "transient"),
        (errors.FilesChangedError("a", "b", "c"), "changed"),
        (errors.UsageError("a", "b", "c"), "setup"),
        (errors.LakeError("a", "b", "c"), "infra"),
        (torch.OutOfMemoryError("out of memory"), "oom"),
        (MemoryError(), "host_oom"),
        (ConnectionResetError(), "transient"),
        (TimeoutError(), "transient"),
        (KeyError("x"), "error"),
        (OSError("x"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_classify(error, error_class):
    assert classify_error(error) == error_class


@pytest.fixture
def lake(tmp_path) -> Lake:
    worker._model_cache.cache_clear()
    return Lake(tmp_path / "lake")


def task(lake: Lake, *cells: Cell, **fields: int) -> Task:
    """Task with small batches, so that there are several."""
    resources = Resources(cpus=1, batch_tokens=128)
    return Task(lake=lake.uri, run_id="run", checkpoint=cells[0].checkpoint, cells=cells, resources=resources, **fields)


def test_a_task_that_fails_leaves_no_module_behind(lake, tmp_path, monkeypatch):
    """The module would hold the weights of the bad checkpoint, or half of them."""
    good, bad = (cell(tiny.checkpoint(tmp_path / f"step{step}", seed=step)) for step in (1, 2))
    like = load_checkpoint(good.checkpoint, good.recipe, Resources(cpus=1)).reuse_key
    assert worker.run_task(task(lake, good))[0].ok
    kept = worker._model_cache().take(like)
    assert kept is not None
    worker._model_cache().put(kept)

    def fail(*args):
        raise ArithmeticError("made for the test")

    monkeypatch.setattr(measure, "describe_layer", fail)
    assert worker.run_task(task(lake, bad))[0].error_class == "error"
    assert worker._model_cache().take(like) is None


def test_a_cell_that_another_run_commits_meanwhile_is_measured_and_not_an_error(lake, tmp_path, monkeypatch):
    """The lake is asked before loading and before measuring; an answer that changes afterwards decides nothing."""
    asked = []

    def has_cell(self, cell_id, model_key):
        asked.append(cell_id)
        return len(asked) > 2

    monkeypatch.setattr(Lake, "has_cell", has_cell)
    (outcome,) = worker.run_task(task(lake, cell(tiny.checkpoint(tmp_path / "step1", seed=1))))
    assert outcome.ok, outcome
    assert len(asked) == 2


def test_an_allocation_that_fails_on_the_cpu_is_a_lack_of_host_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert classify_error(caught.value) == "host_oom"


def test_another_attempt_after_a_full_device_changes_no_number(lake, tmp_path, monkeypatch):
    """The first attempt fails at its second batch; the CPU's batches do not depend on the halved setting."""
    wanted = cell(tiny.checkpoint(tmp_path / "step1", seed=1))
    forward, sizes = measure.LayerStack.forward_and_capture, []

    def full(self, ids, capture):
        sizes.append(ids.numel())
        if len(sizes) == 2:
            raise torch.OutOfMemoryError("made for the test")
        return forward(self, ids, capture)

    monkeypatch.setattr(measure, "CPU_BATCH_TOKENS", 64)
    monkeypatch.setattr(measure.LayerStack, "forward_and_capture", full)
    (outcome,) = worker.run_task(task(lake, wanted))
    assert (outcome.error_class, sizes) == ("oom", [64, 64])
    assert outcome.host == socket.gethostname()
    assert outcome.seconds > 0
    assert not lake.committed_cell_ids()
    assert worker.run_task(task(lake, wanted, attempt=2, batch_halvings=1))[0].ok
    assert set(sizes[2:]) == {64}
    monkeypatch.setattr(measure.LayerStack, "forward_and_capture", forward)
    plain = Lake(tmp_path / "plain")
    assert worker.run_task(task(plain, wanted))[0].ok
    assert numbers_in(lake) == numbers_in(plain)


def numbers_in(lake: Lake) -> list[tuple]:
    """Columns that must be equal in two runs."""
    frame = open_lake(lake.uri).query_frame("SELECT * FROM layers ORDER BY layer")
    return frame.drop(column_names("cost", "provenance"), strict=False).rows()


def in_memory(path: Path) -> float:
    """Share of the file's pages in the page cache, by mincore."""
    libc, size = ctypes.CDLL(None, use_errno=True), path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as view:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        held = (ctypes.c_char * size).from_buffer(view)
        assert libc.mincore(ctypes.byref(held), ctypes.c_size_t(size), pages) == 0
        del held
    return sum(page & 1 for page in pages) / len(pages)


@pytest.mark.parametrize(("free", "share"), [(2**40, 1.0), (2**10, 0.0)])
def test_the_weights_of_a_local_checkpoint_are_in_memory_before_its_turn_if_they_fit(
    lake, tmp_path, monkeypatch, free, share
):
    wanted = cell(tiny.checkpoint(tmp_path / "step1", seed=1))
    weights = tmp_path / "step1" / "model.safetensors"
    with weights.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(weights):
        pytest.skip("a file system whose files are always in memory")
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert worker.prefetch_task(task(lake, wanted)) == []
    assert in_memory(weights) == share


def test_while_one_checkpoint_is_measured_the_next_is_read(lake, tmp_path, monkeypatch):
    """Measuring waits until the files of both checkpoints have been read."""
    wanted = [cell(tiny.checkpoint(tmp_path / f"step{step}", seed=step)) for step in (1, 2)]
    read, both = set(), Event()

    def note(paths):
        read.update(path.parent.name for path in paths)
        if len(read) == 2:
            both.set()

    monkeypatch.setattr(worker, "read_ahead", note)
    backend = InlineBackend(
        TaskFunctions(worker.prefetch_task, lambda _: [] if both.wait(10) else 1 / 0, worker.discard_fetched), ahead=1
    )
    for one in wanted:
        backend.submit(task(lake, one))
    assert len(backend.wait(10) + backend.wait(10)) == 2
