"""Strict loading: an incomplete, non-finite or unknown checkpoint is refused with the names of the faulty parts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model import load_model, module_building
from tests.support import tiny_checkpoints as tiny
from tests.support import tiny_models

Saved = Callable[[str], Path]


@pytest.fixture
def broken(saved: Saved, tmp_path: Path) -> Saved:
    """Return a function that copies a tiny checkpoint, for tests that damage it."""
    return lambda name: Path(shutil.copytree(saved(name), tmp_path / name))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Apply `change` to the tensors of the weight file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def reconfigure(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def refusal(folder: Path) -> str:
    """Return the message with which `folder` is refused; checks that it has two lines and names the folder."""
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, "float32", "cpu")
    assert str(caught.value).count("\n") == 1
    assert folder.name in str(caught.value)
    return str(caught.value)


def test_truncated_file(broken: Saved) -> None:
    folder = broken("gpt2")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "model.safetensors: cannot be opened" in refusal(folder)


def test_missing_shard(broken: Saved) -> None:
    folder = broken("gpt2")
    tiny_models.make("gpt2").save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    absent = sorted(folder.glob("model-*.safetensors"))[1]
    assert load_model(folder, "float32", "cpu").stack("decoder").n_layers == 3
    absent.unlink()
    assert f"absent: {absent.name}" in refusal(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text()[:100])
    assert "not JSON" in refusal(folder)


def test_missing_layer(broken: Saved) -> None:
    """A block in config.json but not in the file is refused; transformers would initialise it randomly."""
    folder = reconfigure(broken("gpt2"), n_layer=4)
    assert "12 tensors absent: transformer.h.3.attn.c_attn.bias" in refusal(folder)


def test_other_shape(broken: Saved) -> None:
    folder = reconfigure(broken("gpt2"), n_positions=32)
    assert "1 tensors of another shape: transformer.wpe.weight (64, 32) instead of (32, 32)" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_not_finite(value: float, broken: Saved) -> None:
    folder = rewrite(broken("gpt2"), lambda tensors: tensors["transformer.h.1.mlp.c_fc.weight"][3].fill_(value))
    assert "1 tensors with NaN or infinity: transformer.h.1.mlp.c_fc.weight" in refusal(folder)


def test_nothing_there(broken: Saved, tmp_path: Path) -> None:
    """A missing config.json and missing weights are both refused."""
    assert "config.json" in refusal(tmp_path)
    folder = broken("gpt2")
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder)


def test_unknown_architecture(broken: Saved) -> None:
    """A class that transformers lacks is named, and code from a checkpoint is never run."""
    folder = reconfigure(broken("gpt2"), architectures=["GPT9LMHeadModel"])
    assert "GPT9LMHeadModel" in refusal(folder)
    (folder / "modeling_own.py").write_text("raise SystemExit('remote code ran')")
    own = {"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "modeling_own.OwnConfig"}
    assert "'own'" in refusal(reconfigure(folder, model_type="own", auto_map=own))


def test_bad_config(broken: Saved) -> None:
    """A config.json that is not JSON, has a field of wrong type or an invalid value is refused."""
    folder = broken("gpt_neox")
    assert "bad config.json" in refusal(reconfigure(folder, hidden_size="wide"))
    assert "GPTNeoXForCausalLM" in refusal(reconfigure(folder, hidden_size=32, hidden_act="glue"))
    (folder / "config.json").write_text("{")
    assert "not JSON" in refusal(folder)


def test_blocks_that_cannot_be_found(tmp_path: Path) -> None:
    """Funnel (nested lists of blocks) and XLNet (tokens before contexts) are refused with their class names."""
    from transformers import FunnelConfig, FunnelForMaskedLM, XLNetConfig, XLNetLMHeadModel

    sizes: dict[str, Any] = {"vocab_size": 50, "d_model": 16, "n_head": 2, "d_inner": 16}
    FunnelForMaskedLM(FunnelConfig(block_sizes=[1, 1, 2], d_head=8, **sizes)).save_pretrained(tmp_path / "funnel")
    XLNetLMHeadModel(XLNetConfig(n_layer=2, **sizes)).save_pretrained(tmp_path / "xlnet")
    for name, cls in (("funnel", "FunnelModel"), ("xlnet", "XLNetModel")):
        with pytest.raises(CheckpointError, match=cls):
            load_model(tmp_path / name, "float32", "cpu")


def test_a_file_without_a_head(broken: Saved, ids: Tensor) -> None:
    """The body is measured, the loss is None with a flag, and no random head is counted."""
    folder = rewrite(broken("gpt_neox"), lambda tensors: tensors.pop("embed_out.weight"))
    model, whole = load_model(folder, "float32", "cpu"), tiny_models.make("gpt_neox")
    assert model.flags == ("no_lm_head",)
    assert model.n_params == sum(parameter.numel() for parameter in whole.gpt_neox.parameters())
    assert model.stack("decoder").loss_kind is None
    assert model.stack("decoder").forward_and_capture(ids, lambda layer, hidden: None) is None


def test_base_class(tmp_path: Path, ids: Tensor) -> None:
    """A config with the base class or without a class gives no loss but the blocks of the whole model."""
    tiny_models.make("bert").bert.save_pretrained(tmp_path)
    for fields in ({}, {"architectures": None}):
        model = load_model(reconfigure(tmp_path, **fields), "float32", "cpu")
        assert model.flags == ("no_lm_head",)
        assert model.stack("encoder").masked_token_losses(ids, ids > 50, 4) is None


def test_absent_pooler_is_no_fault(saved: Saved, broken: Saved) -> None:
    """The files of a masked-language model have no pooler; its base class has one, which nothing uses."""
    folder = reconfigure(broken("bert"), architectures=["BertModel"])
    model = load_model(folder, "float32", "cpu")
    assert model.flags[:2] == ("no_lm_head", "unexpected_keys")
    assert all(key.startswith("cls.") for key in model.unexpected_keys)


def test_unexpected_keys_are_named(broken: Saved) -> None:
    """All unexpected keys are in `unexpected_keys`, the first three also in the flags."""
    names = [f"value_head.{index}.weight" for index in range(4)]
    folder = rewrite(broken("gpt2"), lambda tensors: tensors.update({name: torch.zeros(3) for name in names}))
    model = load_model(folder, "float32", "cpu")
    assert model.unexpected_keys == tuple(names)
    assert model.flags == ("unexpected_keys", *(f"unexpected_keys:{name}" for name in names[:3]))


def test_a_whole_file_outranks_an_index(broken: Saved) -> None:
    """A single weight file takes precedence over an index, whose shards are neither checked nor loaded."""
    folder = broken("gpt2")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    tiny_models.make("gpt2").save_pretrained(folder, max_shard_size="20KB")
    for shard in folder.glob("model-*.safetensors"):
        shard.write_bytes(b"no weights")
    assert "cannot be opened" in refusal(folder)
    (folder / "model.safetensors").write_bytes(whole)
    load_model(folder, "float32", "cpu")


def test_config_names_no_other_file(broken: Saved) -> None:
    """`transformers_weights` in config.json is ignored, since it could name a file that was not checked."""
    folder = reconfigure(broken("gpt2"), transformers_weights="other.safetensors")
    want = load_file(folder / "model.safetensors")["transformer.wpe.weight"]
    save_file({}, folder / "other.safetensors", {"format": "pt"})
    assert torch.equal(load_model(folder, "float32", "cpu").module.transformer.wpe.weight, want)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{}", "no shard is named"),
        ('{"weight_map": {}}', "no shard is named"),
        ('{"weight_map": [1]}', "no shard is named"),
        ("[]", "a JSON list, not an object"),
    ],
)
def test_an_index_that_names_no_shard(content: str, found: str, broken: Saved) -> None:
    folder = broken("gpt2")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    assert f"model.safetensors.index.json: {found}" in refusal(folder)


def test_pickled_weights(broken: Saved, ids: Tensor) -> None:
    """A .bin file gives the same states; a truncated one or one with other objects than tensors is refused."""
    folder = broken("gpt2")
    want = load_model(folder, "float32", "cpu").stack("decoder").forward_and_capture(ids, lambda layer, hidden: None)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path)
    got = load_model(folder, "float32", "cpu").stack("decoder").forward_and_capture(ids, lambda layer, hidden: None)
    assert got is not None
    assert want is not None
    assert torch.equal(got, want)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cannot be opened" in refusal(folder)
    torch.save({**tensors, "hook": print}, path)
    assert "cannot be opened" in refusal(folder)


@pytest.mark.parametrize(("limit", "dtype"), [(10**9, "float32"), (1000, "bfloat16")])
def test_dtype_auto(limit: int, dtype: str, saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is float32 up to the parameter limit and bfloat16 above, independent of the dtype of the file."""
    monkeypatch.setattr(module_building, "FLOAT32_MAX_PARAMS", limit)
    model = load_model(saved("gpt2"), "auto", "cpu")
    assert model.dtype == dtype
    assert {tensor.dtype for tensor in model.module.state_dict().values()} == {getattr(torch, dtype)}


def test_explicit_dtype(saved: Saved, broken: Saved) -> None:
    """The requested dtype overrides the stored one: a float16 file runs in float32."""
    folder = broken("gpt2")
    tiny_models.make("gpt2").half().save_pretrained(folder)
    assert load_model(folder, "float32", "cpu").dtype == "float32"
    assert load_model(folder, "float16", "cpu").dtype == "float16"


def test_reduced_precision_is_off(saved: Saved) -> None:
    """Loading disables TF32, which has a mantissa of 10 bits only."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    load_model(saved("gpt2"), "float32", "cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("name", "positions"), [("gpt2", 64), ("roberta", 64), ("bert", 64), ("llama", 64), ("mamba", None)]
)
def test_facts(name: str, positions: int | None, saved: Saved) -> None:
    """Layers, width, vocabulary, parameters and maximum context; RoBERTa counts its 66 positions from 2."""
    model = load_model(saved(name), "float32", "cpu")
    (profile,) = model.stacks.values()
    assert (model.arch, profile.n_layers, model.d_model, model.vocab_size) == (name, 3, 32, tiny_models.VOCAB)
    assert model.n_params == sum(parameter.numel() for parameter in tiny_models.make(name).parameters())
    assert model.max_positions == positions


@pytest.mark.parametrize("name", ["gpt2", "roberta", "bert", "opt"])
def test_longest_context_runs_and_a_longer_one_does_not(name: str, saved: Saved) -> None:
    """A context of `max_positions` tokens runs, a longer one exceeds the table of positions."""
    model = load_model(saved(name), "float32", "cpu")
    profile = next(iter(model.stacks.values()))
    longest = torch.full((1, model.max_positions or 0), 7)
    profile.forward_and_capture(longest, lambda layer, hidden: None)
    with pytest.raises((IndexError, RuntimeError)):
        profile.forward_and_capture(torch.full((1, longest.shape[1] + 1), 7), lambda layer, hidden: None)


def test_a_profile_it_does_not_have(saved: Saved) -> None:
    with pytest.raises(CheckpointError, match="encoder of GPT2LMHeadModel: it has only decoder"):
        load_model(saved("gpt2"), "float32", "cpu").stack("encoder")


def test_finite_weights_that_the_dtype_cannot_hold_are_named_with_a_dtype_that_can(tmp_path: Path) -> None:
    """They used to be called NaN in the file, with the advice to fetch it again."""
    folder = tiny.checkpoint(tmp_path / "step1", 0)
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.0.attention.dense.weight"][0, 0] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors have finite values beyond 65,504(?s:.*)dtype: bfloat16"):
        load_model(folder, "float16", "cpu")
    assert load_model(folder, "bfloat16", "cpu").flags == ()
