"""Loading a checkpoint: the planned files, on the requested device, with or without a cached model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import measure
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.errors import CheckpointError, FilesChangedError, UsageError
from pipeline.measurement import loaded_checkpoint
from pipeline.measurement.loaded_checkpoint import ModelCache, load_checkpoint
from pipeline.recipe import built_in_recipe
from pipeline.spec import Resources
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
