"""A module with overwritten weights is byte-identical to a freshly loaded one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model import Model, load_model, reload_model, weight_reload
from tests.support import tiny_models
from tests.support.later_checkpoint import Rewrite, later

Saved = Callable[[str], Path]


def second(folder: Path, dtype: str = "float32") -> Model:
    """Return the second model of a history, which later loads can overwrite."""
    return reload_model(load_model(folder, dtype, "cpu"), folder, dtype, "cpu")


def states(model: Model, ids: Tensor) -> dict[tuple[str, int], Tensor]:
    """Return every hidden state of every stack, and its loss as layer -1."""
    found: dict[tuple[str, int], Tensor] = {}
    for kind, profile in model.stacks.items():
        loss = profile.forward_and_capture(
            ids[:1], lambda layer, hidden, kind=kind: found.update({(kind, layer): hidden.clone()})
        )
        if loss is not None:
            found[kind, -1] = loss
    return found


def check_equal(ours: Model, fresh: Model, ids: Tensor) -> None:
    """Assert that weights, buffers, ties, states, flags and unexpected keys are equal."""
    assert (ours.flags, ours.unexpected_keys, ours.n_params) == (fresh.flags, fresh.unexpected_keys, fresh.n_params)
    for method in ("named_parameters", "named_buffers"):
        mine, theirs = (dict(getattr(model.module, method)()) for model in (ours, fresh))
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert mine[name].dtype == tensor.dtype
            assert torch.equal(mine[name], tensor), name
    mine, theirs = states(ours, ids), states(fresh, ids)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


QUICK = ("gpt2", "gpt_neox", "llama", "opt-350m", "mamba", "bert", "modernbert", "t5")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in tiny_models.CLASSES]
)
def test_every_architecture(name: str, saved: Saved, ids: Tensor, tmp_path: Path) -> None:
    """Decoders, encoders and encoder-decoders; tied and untied embeddings; buffers of the file and of the class."""
    model = second(saved(name))
    folder = later(saved(name), tmp_path / "later")
    swapped, fresh = reload_model(model, folder, "float32", "cpu"), load_model(folder, "float32", "cpu")
    assert swapped is model
    check_equal(swapped, fresh, ids)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(("stored", "run"), [("float16", "float32"), ("float32", "bfloat16")])
def test_the_recipe_s_dtype(name: str, stored: str, run: str, saved: Saved, ids: Tensor, tmp_path: Path) -> None:
    """Values are rounded to the recipe's dtype as by a fresh load."""
    model = second(saved(name), run)

    def in_stored(tensors: dict[str, Tensor]) -> None:
        tensors.update({key: tensor.to(getattr(torch, stored)) for key, tensor in tensors.items()})

    folder = later(saved(name), tmp_path / "later", in_stored)
    assert reload_model(model, folder, run, "cpu") is model
    check_equal(model, load_model(folder, run, "cpu"), ids)


def test_a_file_without_the_head(saved: Saved, ids: Tensor, tmp_path: Path) -> None:
    """The base model is overwritten from names with and without its prefix."""
    headless = later(saved("gpt_neox"), tmp_path / "headless", lambda tensors: tensors.pop("embed_out.weight"), 2)
    model = second(headless)
    assert model.flags == ("no_lm_head",)
    folder = later(headless, tmp_path / "later")
    assert reload_model(model, folder, "float32", "cpu") is model
    check_equal(model, load_model(folder, "float32", "cpu"), ids)


def test_tensors_that_the_class_does_not_have(saved: Saved, ids: Tensor, tmp_path: Path) -> None:
    """Unexpected tensors are flagged again; a file without them causes a fresh load."""

    def more(tensors: dict[str, Tensor]) -> None:
        tensors["adapter.weight"] = torch.ones(3)

    first = later(saved("gpt_neox"), tmp_path / "first", more, 2)
    model = second(first)
    assert "unexpected_keys:adapter.weight" in model.flags
    folder = later(saved("gpt_neox"), tmp_path / "with", more)
    assert reload_model(model, folder, "float32", "cpu") is model
    check_equal(model, load_model(folder, "float32", "cpu"), ids)
    without = reload_model(model, saved("gpt_neox"), "float32", "cpu")
    assert without is not model
    check_equal(without, load_model(saved("gpt_neox"), "float32", "cpu"), ids)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_pickle_with_both_names_of_a_tied_tensor(name: str, saved: Saved, ids: Tensor, tmp_path: Path) -> None:
    folders = []
    for seed in (1, 2):
        folder = later(saved(name), tmp_path / str(seed), seed=seed)
        state = load_model(folder, "float32", "cpu").module.state_dict()
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        folders.append(folder)
    model = second(folders[0])
    assert reload_model(model, folders[1], "float32", "cpu") is model
    check_equal(model, load_model(folders[1], "float32", "cpu"), ids)
    head = load_model(saved(name), "float32", "cpu").module.get_output_embeddings()
    key = next(key for key, value in model.module.state_dict().items() if value is not None and _is(model, value))
    state = torch.load(folders[1] / "pytorch_model.bin", weights_only=True)
    state[key] = head.weight.detach() + 1
    torch.save(state, folders[1] / "pytorch_model.bin")
    untied = reload_model(model, folders[1], "float32", "cpu")
    assert untied is not model
    assert untied.weight_targets is None, (
        "files that contradict the tying of the config are always loaded by transformers"
    )
    check_equal(untied, load_model(folders[1], "float32", "cpu"), ids)


def _is(model: Model, value: Tensor) -> bool:
    return value.data_ptr() == model.module.get_output_embeddings().weight.data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("transformer.h.1.attn.c_attn.weight"), "1 tensors absent"),
        (lambda tensors: tensors.update({"transformer.wpe.weight": torch.ones(32, 32)}), "1 tensors of another shape"),
        (lambda tensors: tensors["transformer.h.1.mlp.c_fc.weight"][3].fill_(torch.nan), "1 tensors with NaN"),
    ],
)
def test_what_a_fresh_load_refuses(change: Rewrite, message: str, saved: Saved, tmp_path: Path) -> None:
    """Reloading raises the same error as a fresh load."""
    model, folder = second(saved("gpt2")), later(saved("gpt2"), tmp_path / "bad", change)
    with pytest.raises(CheckpointError, match=message) as fresh:
        load_model(folder, "float32", "cpu")
    with pytest.raises(CheckpointError) as ours:
        reload_model(model, folder, "float32", "cpu")
    assert str(ours.value) == str(fresh.value)


def test_what_is_not_simply_put_in_place_is_not_learned(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in which loading scaled one tensor is detected and not reused."""
    model = load_model(saved("gpt2"), "float32", "cpu")
    files = weight_reload.list_readable_weights(saved("gpt2"))
    assert weight_reload.find_weight_targets(model.module, files)
    model.module.transformer.h[1].mlp.c_fc.weight.data.mul_(1.001)
    assert weight_reload.find_weight_targets(model.module, files) is None


def test_the_memory_of_a_model_of_no_use_is_given_back_before_the_next_is_built(saved: Saved, monkeypatch) -> None:
    before = load_model(saved("gpt2"), "float32", "cpu")

    def watched(*args: Any) -> Model:
        assert all(parameter.is_meta for parameter in before.module.parameters())
        return load_model(*args)

    monkeypatch.setattr(weight_reload, "load_model", watched)
    assert reload_model(before, saved("gpt2"), "float32", "cpu").weight_targets
