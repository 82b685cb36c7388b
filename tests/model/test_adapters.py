"""LoRA adapters merged into a base model: closed forms computed here, and adapters that are refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model import load_model
from tests.support import lora_folders as lora

Saved = Callable[[str], Path]
Q0, Q1, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"
LLAMA = {Q0: (32, 32), Q1: (32, 32), DOWN: (32, 48)}


def weights(folder: Path, base: Path | None = None, dtype: str = "float32") -> dict[str, Tensor]:
    return load_model(folder, dtype, "cpu", base).module.state_dict()


def b_times_a(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Return B @ A as a sum over the ranks."""
    a, b = (tensors[f"{lora.PREFIX}{name}.lora_{x}.weight"] for x in "AB")
    return sum((torch.outer(b[:, i], a[i]) for i in range(len(a))), torch.zeros(len(b), a.shape[1]))


@pytest.mark.parametrize(
    ("fields", "scales"),
    [
        ({}, dict.fromkeys(LLAMA, 3.0)),
        ({"lora_alpha": 5}, dict.fromkeys(LLAMA, 2.5)),
        ({"use_rslora": True}, dict.fromkeys(LLAMA, 6 / math.sqrt(2))),
        ({"alpha_pattern": {"q_proj": 1, "down_proj": 8}}, {Q0: 0.5, Q1: 0.5, DOWN: 4.0}),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 1, "q_proj": 8}}, {Q0: 4.0, Q1: 0.5, DOWN: 3.0}),
        ({"alpha_pattern": {r"^model\.layers\.[01]\.self_attn\.q_proj": 1, "o": 9}}, {Q0: 0.5, Q1: 0.5, DOWN: 3.0}),
        ({"r": 64, "rank_pattern": {"q_proj": 2, "down_proj": 2}}, dict.fromkeys(LLAMA, 3.0)),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_merged_weight_is_w_plus_scale_b_a(
    suffix: str, fields: dict[str, Any], scales: dict[str, float], saved: Saved, tmp_path: Path
) -> None:
    """As in peft 0.21, a pattern matches whole last parts of a module's name, and `^` its beginning."""
    tensors, base = lora.lora_tensors(LLAMA), weights(saved("llama"))
    got = weights(lora.write(tmp_path / "lora", tensors, suffix, **fields), saved("llama"))
    for name, value in got.items():
        module = name.removesuffix(".weight")
        delta = scales[module] * b_times_a(tensors, module) if module in LLAMA else torch.zeros(())
        torch.testing.assert_close(value, base[name] + delta, rtol=0, atol=1e-6)
    assert not torch.equal(got[f"{Q0}.weight"], base[f"{Q0}.weight"])


def test_layers_that_store_the_transpose(saved: Saved, tmp_path: Path) -> None:
    """Conv1D of GPT-2 stores [in, out], whatever `fan_in_fan_out` says; an embedding stores [tokens, dim]."""
    name, a, b = "transformer.h.1.attn.c_attn", torch.randn(2, 99), torch.randn(32, 2)
    tensors = lora.lora_tensors({name: (96, 32)})
    embedding = {f"{lora.PREFIX}transformer.wte.lora_embedding_{x}": value for x, value in (("A", a), ("B", b))}
    base = weights(saved("gpt2"))
    for fan_in_fan_out in (True, False):
        folder = lora.write(tmp_path / "lora", tensors | embedding, fan_in_fan_out=fan_in_fan_out)
        got = weights(folder, saved("gpt2"))
        want = base[f"{name}.weight"] + 3 * b_times_a(tensors, name).T
        torch.testing.assert_close(got[f"{name}.weight"], want, rtol=0, atol=1e-6)
        torch.testing.assert_close(got["transformer.wte.weight"], base["transformer.wte.weight"] + 3 * (b @ a).T)
        assert torch.equal(got["lm_head.weight"], base["lm_head.weight"])  # tied, and not trained


def test_whole_tensors_and_biases_replace_those_of_the_model(saved: Saved, tmp_path: Path) -> None:
    """`modules_to_save` and `bias: all` store whole tensors; one of a head that the class lacks is told."""
    bias, head, norm = torch.randn(96), torch.randn(99, 32), torch.randn(32)
    name = "transformer.h.0.attn.c_attn"
    tensors = lora.lora_tensors({name: (96, 32)}) | {
        f"{lora.PREFIX}{name}.base_layer.bias": bias,
        f"{lora.PREFIX}{name}.lora_B.bias": torch.ones(96),
        f"{lora.PREFIX}lm_head.weight": head,
        f"{lora.PREFIX}transformer.ln_f.modules_to_save.default.weight": norm,
        f"{lora.PREFIX}score.weight": torch.ones(2, 32),
    }
    folder = lora.write(tmp_path / "lora", tensors, modules_to_save=["lm_head", "ln_f", "score"], lora_bias=True)
    model = load_model(folder, "float32", "cpu", saved("gpt2"))
    got = model.module.state_dict()
    assert torch.equal(got[f"{name}.bias"], bias + 3)
    assert torch.equal(got["lm_head.weight"], head)
    assert torch.equal(got["transformer.ln_f.weight"], norm)
    assert torch.equal(got["transformer.wte.weight"], weights(saved("gpt2"))["transformer.wte.weight"])
    assert "unexpected_keys:score.weight" in model.flags


def test_tied_weights_stay_tied_if_the_adapter_says_so(saved: Saved, tmp_path: Path) -> None:
    table = torch.randn(99, 32)
    folder = lora.write(tmp_path / "lora", {f"{lora.PREFIX}transformer.wte.weight": table}, ensure_weight_tying=True)
    got = weights(folder, saved("gpt2"))
    assert torch.equal(got["transformer.wte.weight"], table)
    assert torch.equal(got["lm_head.weight"], table)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_merge_is_in_float32_and_cast_once(dtype: str, saved: Saved, tmp_path: Path) -> None:
    """Merged in float32 and cast, which is not the sum in the dtype; other tensors are those of a plain load."""
    folder = lora.write(tmp_path / "lora", lora.lora_tensors(LLAMA))
    got, full = weights(folder, saved("llama"), dtype), weights(folder, saved("llama"))
    assert all(torch.equal(value, full[name].to(value.dtype)) for name, value in got.items())
    base, plain = weights(saved("llama"), dtype=dtype), f"{Q0}.weight"
    delta = 3 * b_times_a(lora.lora_tensors(LLAMA), Q0)
    assert not torch.equal(got[plain], base[plain] + delta.to(base[plain].dtype))
    assert torch.equal(got["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


def test_states_are_those_of_the_merged_files(saved: Saved, tmp_path: Path) -> None:
    tensors = lora.lora_tensors(LLAMA)
    changes = {f"{name}.weight": 3 * b_times_a(tensors, name) for name in LLAMA}
    merged = lora.merge_into_files(saved("llama"), tmp_path / "merged", changes)
    states: list[list[Tensor]] = []
    for folder, base in ((lora.write(tmp_path / "lora", tensors), saved("llama")), (merged, None)):
        states.append(found := [])
        stack = load_model(folder, "float32", "cpu", base).stack("decoder")
        stack.forward_and_capture(torch.arange(5, 17)[None], lambda _, state, found=found: found.append(state.clone()))
    torch.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-5)


def test_an_adapter_of_the_body_is_merged_into_a_model_with_a_head(saved: Saved, tmp_path: Path) -> None:
    """Trained on AutoModel, its names lack the prefix of the body."""
    tensors = lora.lora_tensors({"layers.0.self_attn.q_proj": (32, 32)})
    got = weights(lora.write(tmp_path / "lora", tensors), saved("llama"))
    delta = 3 * b_times_a(tensors, "layers.0.self_attn.q_proj")
    torch.testing.assert_close(got[f"{Q0}.weight"], weights(saved("llama"))[f"{Q0}.weight"] + delta, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "field 'use_dora' is set"),
        ({"use_qalora": True}, "field 'use_qalora' is set"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "field 'layer_replication' is set"),
        ({"target_parameters": ["experts.gate"]}, "field 'target_parameters' is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changes the base model"),
        ({"r": 3}, "the rank of .* is 3, but tensor A has 2 rows"),
        ({"r": "x"}, "does not fit the tensors"),
        ({"lora_alpha": [1]}, "does not fit the tensors"),
        ({"rank_pattern": ["q_proj"]}, "does not fit the tensors"),
        ({"alpha_pattern": {"(": 2}}, "does not fit the tensors"),
    ],
)
def test_other_adapters_are_refused(fields: dict[str, Any], found: str, saved: Saved, tmp_path: Path) -> None:
    folder = lora.write(tmp_path / "lora", lora.lora_tensors(LLAMA), **fields)
    with pytest.raises(CheckpointError, match=found) as error:
        load_model(folder, "float32", "cpu", saved("llama"))
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({f"{lora.PREFIX}{Q0}.lora_A.weight": torch.ones(2, 32)}, "does not fit the tensors"),
        (lora.lora_tensors({Q0: (64, 32)}), r"has shape \(64, 32\), and the base model \(32, 32\)"),
        (lora.lora_tensors({"model.layers.7.mlp.up_proj": (48, 32)}), "has no such module"),
        (lora.lora_tensors({"model.norm": (32, 32)}), "a LlamaRMSNorm, and only linear layers"),
        ({f"{lora.PREFIX}{Q0}.lora_magnitude_vector": torch.ones(32)}, "does not belong to a plain LoRA"),
        ({f"{Q0}.weight": torch.ones(32, 32)}, "does not belong to a plain LoRA"),
        ({f"{lora.PREFIX}lm_head.weight": torch.ones(120, 32)}, r"has shape \(120, 32\)"),
        ({}, "it has no tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tensors: dict[str, Tensor], found: str, saved: Saved, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=found):
        load_model(lora.write(tmp_path / "lora", tensors), "float32", "cpu", saved("llama"))


def test_damaged_files_are_refused(saved: Saved, tmp_path: Path) -> None:
    folder = lora.write(tmp_path / "lora", lora.lora_tensors(LLAMA))
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="cannot be opened"):
        load_model(folder, "float32", "cpu", saved("llama"))
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="not an object"):
        load_model(folder, "float32", "cpu", saved("llama"))


def test_nan_in_an_adapter_is_told_of_the_adapter(saved: Saved, tmp_path: Path) -> None:
    tensors = {name: value * math.nan for name, value in lora.lora_tensors({Q0: (32, 32)}).items()}
    with pytest.raises(CheckpointError, match=r"lora: 1 tensors with NaN or infinity: model.layers.0"):
        load_model(lora.write(tmp_path / "lora", tensors), "float16", "cpu", saved("llama"))


def test_without_a_base_the_message_names_the_adapter_and_its_base(tmp_path: Path) -> None:
    folder = lora.write(tmp_path / "lora", lora.lora_tensors(LLAMA))
    with pytest.raises(CheckpointError, match=r"a peft adapter without a base(.|\n)*base: owner/base"):
        load_model(folder, "float32", "cpu")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match=r"a peft adapter without a base(.|\n)*base: FOLDER"):
        load_model(folder, "float32", "cpu")
