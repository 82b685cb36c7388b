"""Checks at load: direction of the attention, hidden states and logits are the model's own, or the model is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model import LayerStack, load_model
from tests.support import tiny_models

Saved = Callable[[str], Path]


@pytest.fixture
def configured(saved: Saved, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a tiny checkpoint and sets fields of its config.json."""

    def configure(name: str, **fields: Any) -> Path:
        path = Path(shutil.copytree(saved(name), tmp_path / name)) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return path.parent

    return configure


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "olmo2"])
def test_a_causal_class_that_reads_both_directions_is_an_encoder_without_loss(name: str, configured: Any) -> None:
    model = load_model(configured(name, is_causal=False), "float32", "cpu")
    stack = model.stack("encoder")
    assert moved_by_last_token(stack)
    assert (stack.loss_kind, stack.flags) == (None, ("no_own_loss",))


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_a_masked_class_that_reads_one_direction_is_a_decoder_without_loss(name: str, configured: Any) -> None:
    model = load_model(configured(name, is_decoder=True), "float32", "cpu")
    stack = model.stack("decoder")
    assert not moved_by_last_token(stack)
    assert (stack.loss_kind, stack.flags) == (None, ("no_own_loss",))


@pytest.mark.parametrize("name", [*tiny_models.CAUSAL, *tiny_models.MASKED])
def test_the_wrong_direction_is_refused(name: str, saved: Saved) -> None:
    """A stack whose kind is not what its model does raises an error that names both."""
    module = load_model(saved(name), "float32", "cpu").module
    right, wrong = ("decoder", "encoder") if name in tiny_models.CAUSAL else ("encoder", "decoder")
    LayerStack(module, right).verify()
    with pytest.raises(CheckpointError, match=r"config.json describes a (causal model|bidirectional model), but"):
        LayerStack(module, wrong).verify()


def test_states_that_are_not_the_models_own_are_refused(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = load_model(saved("gpt2"), "float32", "cpu").module
    forward = module.transformer.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if output.hidden_states:
            output.hidden_states = tuple(state + 0.1 for state in output.hidden_states)
        return output

    monkeypatch.setattr(module.transformer, "forward", shifted)
    with pytest.raises(CheckpointError, match="GPT2Model: the outputs of its blocks differ from the hidden states"):
        LayerStack(module, "decoder")


def test_logits_that_are_not_those_of_the_head_are_refused(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head reads the tokens too, so the final state alone does not give its logits."""
    module: Any = load_model(saved("gpt2"), "float32", "cpu").module
    forward = module.forward

    def with_tokens(input_ids: Tensor, **kwargs: Any) -> Any:
        output = forward(input_ids=input_ids, **kwargs)
        output.logits = output.logits + input_ids[..., None]
        return output

    monkeypatch.setattr(module, "forward", with_tokens)
    with pytest.raises(CheckpointError, match="its logits differ from those of its head on the final state"):
        LayerStack(module, "decoder").verify()


@pytest.mark.parametrize("config", ["XLMConfig", "FlaubertConfig"])
@pytest.mark.parametrize("causal", [False, True])
@torch.inference_mode()
def test_blocks_in_several_lists(config: str, causal: bool, tmp_path: Path) -> None:
    """XLM has lists of parts, not of blocks: the states are those between blocks, not the attention outputs."""
    import transformers

    torch.manual_seed(0)
    fields = {"emb_dim": 32, "n_layers": 3, "n_heads": 4, "vocab_size": 99, "causal": causal}
    cls = getattr(transformers, config.replace("Config", "WithLMHeadModel"))
    cls(getattr(transformers, config)(**fields)).save_pretrained(tmp_path)
    model = load_model(tmp_path, "float32", "cpu")
    stack, ids = next(iter(model.stacks.values())), torch.arange(20, 33)[None]
    states: list[Tensor] = []
    stack.forward_and_capture(ids, lambda layer, state: states.append(state.clone()))
    own = model.module(ids, output_hidden_states=True).hidden_states
    assert stack.kind == ("decoder" if causal else "encoder")
    assert len(own) == len(states)
    assert all(map(torch.equal, own, states))
    assert moved_by_last_token(stack) is not causal


def moved_by_last_token(stack: LayerStack) -> bool:
    """Return True if the last state of the first token depends on the last token."""
    last = []
    for token in (7, 8):
        states: list[Tensor] = []
        stack.forward_and_capture(
            torch.tensor([[5, 6, token]]), lambda _, state, into=states: into.append(state.clone())
        )
        last.append(states[-1][0, 0])
    return not torch.equal(*last)
