"""The body of a task: what it keeps for the next one, and the class of a failure, decided where its type is known."""

import pytest
import torch

from pipeline import errors, measure
from pipeline.columns import names
from pipeline.lake import Lake
from pipeline.lake import open as open_lake
from pipeline.spec import Cell, Resources
from pipeline.sweep import worker
from pipeline.sweep.task import Task
from pipeline.sweep.worker import classify
from tests import real
from tests.test_memory import cell


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (errors.CheckpointError("a", "b", "c"), "permanent"),
        (errors.CorpusError("a", "b", "c"), "permanent"),
        (errors.FetchError("a", "b", "c"), "transient"),
        (errors.ChangedError("a", "b", "c"), "changed"),
        (errors.UsageError("a", "b", "c"), "setup"),
        (errors.LakeError("a", "b", "c"), "infra"),
        (torch.OutOfMemoryError("out of memory"), "oom"),
        (MemoryError(), "oom"),
        (ConnectionResetError(), "transient"),
        (TimeoutError(), "transient"),
        (KeyError("x"), "error"),
        (OSError("x"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_classify(error, error_class):
    assert classify(error) == error_class


@pytest.fixture
def lake(tmp_path) -> Lake:
    worker._kept.cache_clear()
    return Lake(tmp_path / "lake")


def task(lake: Lake, *cells: Cell, **fields: int) -> Task:
    """Small batches, so that there are several."""
    resources = Resources(cpus=1, batch_tokens=128)
    return Task(lake=lake.uri, run_id="run", checkpoint=cells[0].checkpoint, cells=cells, resources=resources, **fields)


def test_a_task_that_fails_leaves_no_module_behind(lake, tmp_path, monkeypatch):
    """The weights of a bad checkpoint are in it, or half of them."""
    good, bad = (cell(real.checkpoint(tmp_path / f"step{step}", seed=step)) for step in (1, 2))
    like = measure.open_checkpoint(good.checkpoint, good.recipe, Resources(cpus=1)).like
    assert worker.work(task(lake, good))[0].ok
    kept = worker._kept().take(like)
    assert kept is not None
    worker._kept().put(kept)

    def fail(*args):
        raise ArithmeticError("made for the test")

    monkeypatch.setattr(measure, "describe_layer", fail)
    assert worker.work(task(lake, bad))[0].error_class == "error"
    assert worker._kept().take(like) is None


def test_a_device_that_is_full_costs_half_the_batch_and_no_number(lake, tmp_path, monkeypatch):
    """The first try dies at its second batch; the next, with half the tokens a batch, has the numbers of none lost."""
    wanted = cell(real.checkpoint(tmp_path / "step1", seed=1))
    forward, sizes = measure.Profile.forward, []

    def full(self, ids, capture):
        sizes.append(ids.numel())
        if len(sizes) == 2:
            raise torch.OutOfMemoryError("made for the test")
        return forward(self, ids, capture)

    monkeypatch.setattr(measure.Profile, "forward", full)
    (outcome,) = worker.work(task(lake, wanted))
    assert (outcome.error_class, sizes) == ("oom", [128, 128])
    assert not lake.committed()
    assert worker.work(task(lake, wanted, attempt=2, halvings=1))[0].ok
    assert set(sizes[2:]) == {64}
    monkeypatch.setattr(measure.Profile, "forward", forward)
    plain = Lake(tmp_path / "plain")
    assert worker.work(task(plain, wanted))[0].ok
    assert numbers_in(lake) == numbers_in(plain)


def numbers_in(lake: Lake) -> list[tuple]:
    """Every column that may not differ between two runs."""
    frame = open_lake(lake.uri).frame("SELECT * FROM layers ORDER BY layer")
    return frame.drop(names("cost", "provenance"), strict=False).rows()
