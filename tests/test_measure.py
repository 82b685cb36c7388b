"""Loading a checkpoint: the planned files, on the requested device, with or without a cached model."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import measure
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.errors import CheckpointError, FilesChangedError, UsageError
from pipeline.lake import Lake
from pipeline.measurement import loaded_checkpoint
from pipeline.measurement.loaded_checkpoint import ModelCache, load_checkpoint
from pipeline.recipe import built_in_recipe
from pipeline.spec import Resources
from pipeline.sweep.task import Task
from pipeline.sweep.worker import run_task
from tests.support import tiny_checkpoints as tiny
from tests.support.tiny_cells import cell, numbers

CPU = Resources(cpus=1)
RECIPE = built_in_recipe("quick@1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "step1", seed=1)


def during_loading(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object], first: bool) -> None:
    """Change the files just before or just after the weights are read."""
    load = loaded_checkpoint.load_model

    def disturbed(*args):
        if first:
            happen()
        model = load(*args)
        if not first:
            happen()
        return model

    monkeypatch.setattr(loaded_checkpoint, "load_model", disturbed)


@pytest.mark.parametrize("first", [True, False])
def test_weights_replaced_since_the_plan_are_not_measured_under_its_name(folder, tmp_path, monkeypatch, first):
    planned = inspect_checkpoint(folder)
    load_checkpoint(planned, RECIPE, CPU)
    other = tiny.checkpoint(tmp_path / "other", seed=2)
    during_loading(monkeypatch, lambda: shutil.copy(other / "model.safetensors", folder), first)
    with pytest.raises(FilesChangedError, match=r"step1.*its weights changed"):
        load_checkpoint(planned, RECIPE, CPU)


def overwrite(path: Path, data: bytes) -> None:
    """Write over a file in place: the inode and the size stay."""
    with path.open("r+b") as file:
        file.write(data)


def test_a_file_written_over_in_place_changes_no_loaded_weight(folder, tmp_path):
    """Weights are mapped by the loader: without a copy, the module would read the new bytes."""
    other = tiny.checkpoint(tmp_path / "other", seed=2)
    model = load_checkpoint(inspect_checkpoint(folder), RECIPE, CPU).model.module
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    overwrite(folder / "model.safetensors", (other / "model.safetensors").read_bytes())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("change", ["in place", "touched", "replaced", "removed"])
def test_nothing_is_committed_once_a_file_was_written(folder, tmp_path, monkeypatch, name, change):
    wanted, path = cell(folder), folder / name

    def disturb() -> None:
        data = path.read_bytes()
        if change == "in place":
            overwrite(path, data[:-1] + b"\0")
        if change == "touched":
            os.utime(path)
        if change == "replaced":
            shutil.copy(path, tmp_path / name)
            os.replace(tmp_path / name, path)
        if change == "removed":
            path.unlink()

    lake = Lake(tmp_path / "lake")
    task = Task(lake=lake.uri, run_id="run", checkpoint=wanted.checkpoint, cells=(wanted,), resources=CPU)
    real = measure.measure_cell

    def measured(*arguments):
        disturb()
        return real(*arguments)

    monkeypatch.setattr(measure, "measure_cell", measured)
    (outcome,) = run_task(task)
    assert outcome.error_class == "changed"
    assert name in outcome.message
    assert lake.cell_files() == {}


def test_files_half_written_over_are_changed_not_broken(folder, monkeypatch):
    """Files broken by another upload are `changed`: the planned checkpoint must not be quarantined."""
    planned = inspect_checkpoint(folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    during_loading(monkeypatch, lambda: weights.write_bytes(whole[:-1000]), first=True)
    with pytest.raises(FilesChangedError):
        load_checkpoint(planned, RECIPE, CPU)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        load_checkpoint(inspect_checkpoint(folder), RECIPE, CPU)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_another_config_or_tokenizer_is_noticed_too(folder, name):
    planned = inspect_checkpoint(folder)
    (folder / name).write_text((folder / name).read_text() + "\n")
    with pytest.raises(FilesChangedError, match=f"its {name[:6]}"):
        load_checkpoint(planned, RECIPE, CPU)


def test_a_history_through_one_module_has_the_numbers_of_fresh_loads(tmp_path):
    """The third checkpoint reuses the module and the tokenizer of the second."""
    kept, modules = ModelCache(), []
    for step in range(3):
        wanted = cell(tiny.checkpoint(tmp_path / f"step{step}", seed=step))
        kept.put(opened := load_checkpoint(wanted.checkpoint, wanted.recipe, CPU, kept))
        modules.append(opened.model.module)
    assert modules[1] is modules[2]
    fresh = load_checkpoint(wanted.checkpoint, wanted.recipe, CPU)
    assert numbers(measure.measure(wanted, opened, 512)) == numbers(measure.measure(wanted, fresh, 512))


def test_what_is_kept_is_out_while_it_is_in_use_and_freed_where_it_is_of_no_use(folder):
    kept, planned = ModelCache(), inspect_checkpoint(folder)
    opened = load_checkpoint(planned, RECIPE, CPU, kept)
    kept.put(opened)
    assert kept.take(opened.reuse_key) is opened
    assert kept.take(opened.reuse_key) is None
    kept.put(opened)
    in_half = built_in_recipe("quick@1").model_copy(update={"dtype": "bfloat16"})
    other = load_checkpoint(planned, in_half, CPU, kept)
    assert all(parameter.is_meta for parameter in opened.model.module.parameters())
    assert other.model.dtype == "bfloat16"


def test_a_model_that_is_large_beside_the_free_memory_is_not_kept(folder, monkeypatch):
    opened, kept = load_checkpoint(inspect_checkpoint(folder), RECIPE, CPU), ModelCache()
    size = 4 * opened.model.n_params
    for room, result in ((11 * size, opened), (9 * size, None)):
        monkeypatch.setattr(loaded_checkpoint, "free_bytes", lambda device, room=room: room)
        kept.put(opened)
        assert kept.take(opened.reuse_key) is result


def test_a_gpu_that_is_not_there_is_refused_in_two_lines(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match=r"resources\.gpus=1: no CUDA device") as caught:
        load_checkpoint(inspect_checkpoint(folder), RECIPE, Resources(cpus=1, gpus=1))
    assert len(str(caught.value).splitlines()) == 2
