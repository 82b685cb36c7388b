"""Weight files as trainers write them: wrappers' names, nested state dicts, adapters, other files beside them."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model import load_model, reload_model
from tests.support import tiny_models

Saved = Callable[[str], Path]
STATE = dict[str, Tensor]


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Saved:
    """Return a function that copies a tiny checkpoint, for tests that change it."""
    return lambda name: Path(shutil.copytree(saved(name), tmp_path / name))


def fingerprint(folder: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the bytes of all loaded tensors, and the flags."""
    model = load_model(folder, "float32", "cpu")
    return {name: t.numpy().tobytes() for name, t in model.module.state_dict().items()}, model.flags


def rename(folder: Path, change: Callable[[str], str]) -> Path:
    path = folder / "model.safetensors"
    save_file({change(name): value for name, value in load_file(path).items()}, path, {"format": "pt"})
    return folder


def pickled(folder: Path, wrap: Callable[[STATE], Any]) -> Path:
    """Replace the safetensors file by a pickle of what `wrap` returns."""
    path = folder / "model.safetensors"
    torch.save(wrap(load_file(path)), folder / "pytorch_model.bin")
    path.unlink()
    return folder


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda name: f"_orig_mod.{name}", "_orig_mod."),
        (lambda name: f"module.{name}", "module."),
        (lambda name: f"_orig_mod.module.{name}", "module."),
        (lambda name: f"module._orig_mod.{name}", "_orig_mod."),
        (lambda name: f"_fsdp_wrapped_module.{name}", "_fsdp_wrapped_module."),
        (lambda name: name.replace(".1.", ".1._fsdp_wrapped_module._checkpoint_wrapped_module."), "_checkpoint"),
        (lambda name: f"model.{name}", "model."),
        (lambda name: f"_forward_module.model.{name}", "_forward_module.model."),
    ],
)
def test_names_of_wrappers_are_removed(name: str, change: Callable[[str], str], part: str, copy: Saved) -> None:
    folder = copy(name)
    weights, flags = fingerprint(folder)
    got, got_flags = fingerprint(rename(folder, change))
    assert got == weights
    assert set(got_flags) - set(flags) >= {"unwrapped_names"}
    assert any(flag.startswith(f"unwrapped_names:{part}") for flag in got_flags)


def test_wrapped_checkpoints_of_a_history_are_reloaded_in_place(copy: Saved) -> None:
    """A second checkpoint with wrapped names overwrites the module of the first with its own weights."""
    folder = rename(copy("gpt2"), lambda name: f"_orig_mod.{name}")
    model = reload_model(load_model(folder, "float32", "cpu"), folder, "float32", "cpu")
    path = folder / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(path).items()}, path, {"format": "pt"})
    again = reload_model(model, folder, "float32", "cpu").module.state_dict()
    fresh = load_model(folder, "float32", "cpu").module.state_dict()
    assert all(torch.equal(again[name], value) for name, value in fresh.items())


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "module"])
def test_a_nested_state_dict_is_read(key: str, copy: Saved) -> None:
    folder = copy("gpt2")
    weights, _ = fingerprint(folder)
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    got, flags = fingerprint(pickled(folder, lambda state: {key: state, "optimizer": optimizer, "iter_num": 5}))
    assert got == weights
    assert f"unwrapped_names:{key}" in flags


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda state: {"model": state, "module": state}, "several dicts of tensors: model, module"),
        (lambda state: {"optimizer": {"lr": 0.1}, "step": 3}, "no tensors, but optimizer, step"),
        (lambda state: list(state.values()), "no tensors, but list"),
        (lambda state: {}, "no tensors, but nothing"),
    ],
)
def test_a_pickle_without_one_state_dict_is_refused(wrap: Callable[[STATE], Any], found: str, copy: Saved) -> None:
    with pytest.raises(CheckpointError, match=found):
        load_model(pickled(copy("gpt2"), wrap), "float32", "cpu")


def test_a_common_prefix_of_another_model_is_not_removed(copy: Saved) -> None:
    """Names that do not fit without their prefix either are reported as they are in the file."""
    folder = rename(copy("gpt2"), lambda name: f"model.decoder.{name.removeprefix('transformer.')}x")
    with pytest.raises(CheckpointError, match="tensors absent: transformer"):
        load_model(folder, "float32", "cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"base_model.model.{name}",
        lambda name: name,
        lambda name: f"module.base_model.model.{name}",
    ],
)
def test_an_unmerged_adapter_in_the_weights_is_refused(change: Callable[[str], str], copy: Saved) -> None:
    """Without its adapter the model would be measured as if it had not been trained."""
    folder = copy("gpt2")
    path = folder / "model.safetensors"
    state = load_file(path) | {"transformer.h.0.attn.c_attn.lora_A.default.weight": torch.zeros(2, 32)}
    save_file({change(name): value for name, value in state.items()}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors of an adapter that is not merged(.|\n)*merge_and_unload"):
        load_model(folder, "float32", "cpu")


def add_adapter(folder: Path) -> Path:
    """Write a LoRA adapter beside full weights, as a trainer does that saves both."""
    tensors = {f"base_model.model.transformer.h.0.attn.c_attn.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "gpt2"}))
    return folder


@pytest.mark.parametrize("package", ["peft", "sentencepiece", "flash_attn", "bitsandbytes", "kernels", "mamba_ssm"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
def test_weights_do_not_depend_on_installed_packages(
    package: str, name: str, copy: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that becomes importable changes neither the weights nor the states nor the flags."""
    folder = add_adapter(copy(name))
    before, states = fingerprint(folder), hidden_states(folder)
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for module in ("transformers.modeling_utils", "transformers.integrations.peft", "transformers.utils"):
        for check in ("is_peft_available", "is_flash_attn_2_available", "is_bitsandbytes_available"):
            if check.split("_")[1] in package and hasattr(sys.modules[module], check):
                monkeypatch.setattr(sys.modules[module], check, lambda *args, **kwargs: True)
    assert fingerprint(folder) == before
    assert all(map(torch.equal, hidden_states(folder), states))


def hidden_states(folder: Path) -> list[Tensor]:
    states: list[Tensor] = []
    stack = load_model(folder, "float32", "cpu").stack("decoder")
    stack.forward_and_capture(torch.arange(5, 17)[None], lambda layer, state: states.append(state.clone()))
    return states


def test_files_that_config_names_are_not_read(copy: Saved) -> None:
    """`configuration_files` would replace config.json by a file without a checksum."""
    folder = copy("gpt2")
    before, _ = fingerprint(folder)
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    (folder / "config.4.0.0.json").write_text(json.dumps({**raw, "n_head": 1, "tie_word_embeddings": False}))
    path.write_text(json.dumps({**raw, "configuration_files": ["config.4.0.0.json"]}))
    model = load_model(folder, "float32", "cpu")
    assert model.module.config.n_head == tiny_models.make("gpt2").config.n_head
    assert fingerprint(folder)[0] == before


@pytest.mark.parametrize(
    "fields",
    [
        {"return_dict": False},
        {"use_return_dict": False, "torchscript": True},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"use_cache": True},
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_3"},
        {"experts_implementation": "none such"},
        {"torch_dtype": "bfloat16"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_fields_that_steer_the_output_or_the_kernels_change_nothing(fields: dict[str, Any], copy: Saved) -> None:
    folder = copy("gpt2")
    before = fingerprint(folder), hidden_states(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert fingerprint(folder) == before[0]
    assert all(map(torch.equal, hidden_states(folder), before[1]))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "none such"])
def test_quantised_weights_are_refused_by_their_method(method: str, copy: Saved) -> None:
    folder = copy("gpt2")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": method}}))
    with pytest.raises(CheckpointError, match=rf"quantised \({method}\)(.|\n)*dequantize"):
        load_model(folder, "float32", "cpu")


def test_a_trainers_other_files_are_not_read(copy: Saved) -> None:
    folder = copy("gpt2")
    before = fingerprint(folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (folder / name).write_bytes(b"neither a pickle nor JSON")
    (folder / "generation_config.json").write_text("no JSON")
    assert fingerprint(folder) == before


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_placeholders_of_zero_3_are_named(name: str, copy: Saved) -> None:
    folder = copy(name)
    path = folder / "model.safetensors"
    save_file({name: torch.zeros(0) for name in load_file(path)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensors are empty, as DeepSpeed ZeRO-3(.|\n)*zero_to_fp32"):
        load_model(folder, "float32", "cpu")
