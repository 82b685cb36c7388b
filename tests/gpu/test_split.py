"""Model split over two devices, at least one a GPU: same values as the unsplit model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import measure
from pipeline.measurement import loaded_checkpoint
from pipeline.measurement.loaded_checkpoint import load_checkpoint
from pipeline.model import Model, load_model, reload_model
from pipeline.spec import Resources
from tests.support import tiny_checkpoints as tiny
from tests.support import tiny_models
from tests.support.gpu_cells import HEADLINES, cell
from tests.support.later_checkpoint import later
from tests.support.split_models import captured_states, room_of_two

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
IDS = torch.randint(5, 99, (3, 13), generator=torch.Generator().manual_seed(1))
TOLERANCE = 1e-4
"""Error relative to the largest value of a state or loss, in float32 without TF32; CPU and GPU sum in other orders."""
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device; a split over two needs two")
ELSEWHERE = pytest.mark.parametrize("elsewhere", [pytest.param("cuda:1", marks=TWO_GPUS), "cpu"])


def room(model: Model, elsewhere: str) -> dict[str, int]:
    """Return capacities: the first GPU fits one block and the tensors outside the blocks."""
    at_home, others = room_of_two(model.module, "elsewhere").values()
    return {"cuda:0": at_home, elsewhere: others}


def states(model: Model) -> list[Tensor]:
    """Return every hidden state and the loss of every stack; asserts that all are on the first GPU."""
    found = [state for profile in model.stacks.values() for state in captured_states(profile, IDS)]
    assert {state.device for state in found} == {torch.device("cuda:0")}
    return found


def check_alike(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE * float(other.abs().max()))


@ELSEWHERE
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "opt", "mamba", "bert", "deberta-v2-conv", "t5"])
def test_a_split_model_has_the_states_of_the_whole_one(name: str, elsewhere: str, tmp_path: Path) -> None:
    folder = tiny_models.save(name, tmp_path / name)
    whole = load_model(folder, "float32", "cuda:0")
    split = load_model(folder, "float32", room(whole, elsewhere))
    assert {tensor.device for tensor in split.module.parameters()} == {torch.device("cuda:0"), torch.device(elsewhere)}
    check_alike(states(split), states(whole))


@ELSEWHERE
def test_the_next_checkpoint_is_put_where_the_one_before_was(elsewhere: str, tmp_path: Path) -> None:
    first = tiny_models.save("gpt_neox", tmp_path / "first")
    devices = room(load_model(first, "float32", "cuda:0"), elsewhere)
    split = reload_model(load_model(first, "float32", devices), first, "float32", devices)
    folder = later(first, tmp_path / "later")
    assert reload_model(split, folder, "float32", devices) is split
    check_alike(states(split), states(load_model(folder, "float32", "cuda:0")))


@ELSEWHERE
def test_a_split_checkpoint_has_the_rows_of_the_whole_one(elsewhere: str, tmp_path: Path, monkeypatch) -> None:
    wanted = cell(tiny.checkpoint(tmp_path / "step1", seed=1))
    whole = load_checkpoint(wanted.checkpoint, wanted.recipe, Resources(cpus=1, gpus=1))
    theirs = measure.measure(wanted, whole, 512)
    devices = room(whole.model, elsewhere)
    monkeypatch.setattr(loaded_checkpoint, "_devices", lambda resources: list(devices))
    monkeypatch.setattr(loaded_checkpoint, "weight_budgets", lambda free: list(devices.values()))
    split = load_checkpoint(wanted.checkpoint, wanted.recipe, Resources(cpus=1, gpus=2))
    assert torch.device(elsewhere) in {tensor.device for tensor in split.model.module.parameters()}
    for ours, other in zip(measure.measure(wanted, split, 512), theirs, strict=True):
        assert {name: ours[name] for name in HEADLINES} == pytest.approx({n: other[n] for n in HEADLINES}, rel=1e-4)
