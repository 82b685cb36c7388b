"""The table of architectures: profiles and norm placement from config.json, checked against the models themselves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn
from transformers import CONFIG_MAPPING

from pipeline.catalog.architectures import ARCHITECTURES, infer_kinds, norm_placement
from pipeline.model import load_model
from tests.model import tiny

BOTH = ("encdec-encoder", "encdec-decoder")


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("GPTNeoXForCausalLM", ("decoder",)),
        ("GPT2LMHeadModel", ("decoder",)),
        ("BertLMHeadModel", ("decoder",)),
        ("BertForMaskedLM", ("encoder",)),
        ("BertForPreTraining", ("encoder",)),
        ("T5ForConditionalGeneration", BOTH),
        ("T5EncoderModel", ("encdec-encoder",)),
        ("BartForCausalLM", ("decoder",)),
    ],
)
def test_the_class_name_decides(name: str, want: tuple[str, ...]) -> None:
    """Whatever the model type says."""
    for model_type in ("bert", "gpt2", "unheard-of"):
        assert infer_kinds({"architectures": [name], "model_type": model_type}) == want


@pytest.mark.parametrize(
    ("model_type", "want"), [("gpt_neox", ("decoder",)), ("bert", ("encoder",)), ("t5", BOTH), ("unheard-of", ())]
)
def test_else_the_model_type_decides(model_type: str, want: tuple[str, ...]) -> None:
    """Where config.json has no class name, or that of a base class."""
    assert infer_kinds({"model_type": model_type}) == want
    assert infer_kinds({"model_type": model_type, "architectures": None}) == want
    assert infer_kinds({"model_type": model_type, "architectures": ["SomeModel"]}) == want


def test_a_config_that_says_nothing() -> None:
    assert infer_kinds({}) == ()
    assert norm_placement({}) == "unknown"


def test_every_type_is_one_of_transformers() -> None:
    """No entry is a misspelling that would never be found."""
    assert set(ARCHITECTURES) <= set(CONFIG_MAPPING)


def seen_placement(block: nn.Module, run: Callable[[], object]) -> str:
    """post where a norm's output leaves `block`, pre where a norm reads what enters it, else sublayer-post."""
    entered: list[Tensor] = []
    left: list[Tensor] = []
    read: list[Tensor] = []
    made: list[Tensor] = []
    for norm in block.modules():
        if "Norm" in type(norm).__name__:
            norm.register_forward_pre_hook(lambda _, args: read.append(args[0]))
            norm.register_forward_hook(lambda _, args, output: made.append(output))
    block.register_forward_pre_hook(
        lambda _, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    block.register_forward_hook(lambda _, args, output: left.append(output[0] if isinstance(output, tuple) else output))
    run()
    same = lambda one, others: any(one.data_ptr() == other.data_ptr() for other in others)  # noqa: E731
    return "post" if same(left[-1], made) else "pre" if same(entered[-1], read) else "sublayer-post"


@pytest.mark.parametrize("name", [name for name in tiny.CLASSES if name not in ("gemma2", "albert")])
def test_norm_placement_is_what_the_blocks_do(name: str, saved: Callable[[str], Path], ids: Tensor) -> None:
    """The table agrees with what the last block is seen to normalise.

    Not asked of Gemma 2, which has norms on both sides, and ALBERT, whose group of layers is BERT's block.
    """
    folder = saved(name)
    model = load_model(folder, "float32", "cpu")
    profile = next(iter(model.stacks.values()))
    lists = [m for m in model.module.modules() if isinstance(m, nn.ModuleList) and len(m) == profile.n_layers]
    seen = seen_placement(lists[0][-1], lambda: profile.forward_and_capture(ids[:1], lambda layer, hidden: None))
    assert norm_placement(json.loads((folder / "config.json").read_text())) == seen


def test_neither_torch_nor_transformers() -> None:
    """Planning a sweep reads the table, and must not wait for either import."""
    code = "import sys, pipeline.catalog.architectures; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
