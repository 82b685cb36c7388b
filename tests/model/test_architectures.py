"""Table of architectures: kinds and norm placement from config.json, checked against the models."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from transformers import CONFIG_MAPPING

from pipeline.catalog.architectures import ARCHITECTURES, infer_kinds, norm_placement
from pipeline.model import load_model
from tests.support import tiny_models

BOTH = ("encdec-encoder", "encdec-decoder")


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("GPTNeoXForCausalLM", ("decoder",)),
        ("GPT2LMHeadModel", ("decoder",)),
        ("OPTForCausalLM", ("decoder",)),
        ("BertForMaskedLM", ("encoder",)),
        ("BertForPreTraining", ("encoder",)),
        ("T5ForConditionalGeneration", BOTH),
        ("T5EncoderModel", ("encdec-encoder",)),
        ("BartForCausalLM", ("decoder",)),
    ],
)
def test_the_class_name_decides(name: str, want: tuple[str, ...]) -> None:
    """The class name takes precedence over the model type."""
    for model_type in ("distilbert", "gpt2", "unheard-of"):
        assert infer_kinds({"architectures": [name], "model_type": model_type}) == want


@pytest.mark.parametrize(
    ("model_type", "want"), [("gpt_neox", ("decoder",)), ("bert", ("encoder",)), ("t5", BOTH), ("unheard-of", ())]
)
def test_else_the_model_type_decides(model_type: str, want: tuple[str, ...]) -> None:
    """The model type decides if config.json has no class name or that of a base class."""
    assert infer_kinds({"model_type": model_type}) == want
    assert infer_kinds({"model_type": model_type, "architectures": None}) == want
    assert infer_kinds({"model_type": model_type, "architectures": ["SomeModel"]}) == want


@pytest.mark.parametrize(
    ("config", "want"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "is_causal": False}, ("encoder",)),
        ({"architectures": ["Gemma3ForCausalLM"], "use_bidirectional_attention": True}, ("encoder",)),
        ({"architectures": ["Gemma4ForCausalLM"], "use_bidirectional_attention": "all"}, ("encoder",)),
        ({"architectures": ["Gemma4ForCausalLM"], "use_bidirectional_attention": "vision"}, ("decoder",)),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, ("encoder",)),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True}, ("decoder",)),
        ({"architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "is_decoder": True}, ("decoder",)),
        ({"architectures": ["BertModel"], "model_type": "bert", "is_decoder": True}, ("decoder",)),
        ({"architectures": ["XLMWithLMHeadModel"], "model_type": "xlm"}, ("encoder",)),
        ({"architectures": ["XLMWithLMHeadModel"], "model_type": "xlm", "causal": True}, ("decoder",)),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}}, ("decoder",)),
        ({"architectures": ["T5GemmaForConditionalGeneration"], "is_encoder_decoder": True}, BOTH),
        ({"architectures": ["XForConditionalGeneration"], "text_config": {"is_encoder_decoder": True}}, BOTH),
        ({"architectures": ["XForConditionalGeneration"], "text_config": {"is_causal": False}}, ("encoder",)),
    ],
)
def test_fields_of_the_direction_outrank_the_class(config: dict[str, Any], want: tuple[str, ...]) -> None:
    assert infer_kinds(config) == want


def test_a_config_that_says_nothing() -> None:
    assert infer_kinds({}) == ()
    assert norm_placement({}) == "unknown"


def test_every_type_is_one_of_transformers() -> None:
    """Every entry is a model type of transformers, so that no misspelling stays unnoticed."""
    assert set(ARCHITECTURES) <= set(CONFIG_MAPPING)


def observed_placement(block: nn.Module, run: Callable[[], object]) -> str:
    """Return post if `block` returns a norm's output, pre if a norm reads its input, else sublayer-post."""
    block_inputs: list[Tensor] = []
    block_outputs: list[Tensor] = []
    norm_inputs: list[Tensor] = []
    norm_outputs: list[Tensor] = []
    for norm in block.modules():
        if "Norm" in type(norm).__name__:
            norm.register_forward_pre_hook(lambda _, args: norm_inputs.append(args[0]))
            norm.register_forward_hook(lambda _, args, output: norm_outputs.append(output))
    block.register_forward_pre_hook(
        lambda _, args, kwargs: block_inputs.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    block.register_forward_hook(lambda _, args, out: block_outputs.append(out[0] if isinstance(out, tuple) else out))
    run()
    shared = lambda tensor, others: any(tensor.data_ptr() == other.data_ptr() for other in others)  # noqa: E731
    if shared(block_outputs[-1], norm_outputs):
        return "post"
    return "pre" if shared(block_inputs[-1], norm_inputs) else "sublayer-post"


@pytest.mark.parametrize("name", [name for name in tiny_models.CLASSES if name not in ("gemma2", "albert")])
def test_norm_placement_is_what_the_blocks_do(name: str, saved: Callable[[str], Path], ids: Tensor) -> None:
    """The table agrees with the norms observed in the last block.

    Excludes Gemma 2, which has norms on both sides, and ALBERT, whose group of layers is BERT's block.
    """
    folder = saved(name)
    model = load_model(folder, "float32", "cpu")
    profile = next(iter(model.stacks.values()))
    lists = [m for m in model.module.modules() if isinstance(m, nn.ModuleList) and len(m) == profile.n_layers]
    observed = observed_placement(
        lists[0][-1], lambda: profile.forward_and_capture(ids[:1], lambda layer, hidden: None)
    )
    assert norm_placement(json.loads((folder / "config.json").read_text())) == observed


def test_neither_torch_nor_transformers() -> None:
    """The table is read during planning, which must not wait for either import."""
    code = "import sys, pipeline.catalog.architectures; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
