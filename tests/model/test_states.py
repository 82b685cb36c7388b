"""The hidden states passed to `capture` equal those of the model."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.model import LayerStack, load_model
from tests.support import tiny_models

Saved = Callable[[str], Path]
SHIFTED = {"mamba", "mamba2"}
"""Models whose `output_hidden_states` begins with the output of block 1."""


def states(profile: LayerStack, ids: Tensor) -> list[Tensor]:
    """Return every state [contexts, tokens, dim] that `capture` gets."""
    parts: dict[int, list[Tensor]] = defaultdict(list)
    profile.forward_and_capture(ids, lambda layer, hidden: parts[layer].append(hidden.clone()))
    assert sorted(parts) == [state.layer for state in profile.state_specs]
    return [torch.cat(parts[layer]) for layer in sorted(parts)]


def final_norm(body: nn.Module) -> nn.Module:
    names = ("ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm", "norm", "project_out")
    return next(module for name in names if isinstance(module := getattr(body, name, None), nn.Module))


def check(got: list[Tensor], want: tuple[Tensor, ...], body: nn.Module) -> None:
    """Assert that `got` is `want`, optionally with the raw output of the last block before the last state."""
    if len(got) == len(want) + 1:
        torch.testing.assert_close(final_norm(body)(got[-2]), want[-1], rtol=0, atol=0)
        got = [*got[:-2], got[-1]]
    for layer, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(ours, theirs), f"state {layer}: {(ours - theirs).abs().max()}"


@pytest.mark.parametrize("name", tiny_models.CAUSAL + tiny_models.MASKED)
@torch.inference_mode()
def test_states_are_the_models_own(name: str, saved: Saved, ids: Tensor) -> None:
    """States equal output_hidden_states bit for bit; the final norm of the raw last block is the last one."""
    model = load_model(saved(name), "float32", "cpu")
    (profile,) = model.stacks.values()
    want = model.module(ids, output_hidden_states=True).hidden_states
    got = states(profile, ids)
    assert [hidden.shape[-1] for hidden in got] == [state.width for state in profile.state_specs]
    body = model.module.base_model.get_decoder() if profile.kind == "decoder" else model.module.base_model
    check(got[1:] if name in SHIFTED else got, want, body)
    if name in SHIFTED:
        assert torch.equal(got[0], model.module.get_input_embeddings()(ids))


@pytest.mark.parametrize("name", tiny_models.TWOFOLD)
@torch.inference_mode()
def test_both_halves_of_an_encoder_decoder(name: str, saved: Saved, ids: Tensor) -> None:
    """The encoder reads the context, the decoder the same ids shifted right, so position i predicts token i."""
    model = load_model(saved(name), "float32", "cpu")
    start = {"t5": 0, "bart": 2}[name]
    shifted = torch.cat([torch.full((len(ids), 1), start), ids[:, :-1]], dim=1)
    want = model.module(ids, decoder_input_ids=shifted, output_hidden_states=True)
    encoder, decoder = model.stack("encdec-encoder"), model.stack("encdec-decoder")
    check(states(encoder, ids), want.encoder_hidden_states, model.module.get_encoder())
    check(states(decoder, ids), want.decoder_hidden_states, model.module.get_decoder())
    assert (encoder.n_layers, decoder.n_layers) == (3, 2)
    assert encoder.flags == decoder.flags == ("no_own_loss",)
    assert encoder.forward_and_capture(ids, lambda layer, hidden: None) is None
    assert decoder.forward_and_capture(ids, lambda layer, hidden: None) is None


@pytest.mark.parametrize(
    ("name", "last"), [("gpt2", "final_norm"), ("opt-350m", "final_norm"), ("bert", "block"), ("albert", "block")]
)
def test_depth_and_names(name: str, last: str, saved: Saved) -> None:
    """Layer 0 is the embedding, depth is layer / L, and the state after a final norm is a separate row at depth 1."""
    (profile,) = load_model(saved(name), "float32", "cpu").stacks.values()
    assert [state.name for state in profile.state_specs[:4]] == ["embedding", "block", "block", "block"]
    assert [state.depth for state in profile.state_specs[:4]] == [0, 1 / 3, 2 / 3, 1]
    assert (profile.state_specs[-1].name, profile.state_specs[-1].depth) == (last, 1)


def test_hooks_are_gone_after_an_error(saved: Saved, ids: Tensor) -> None:
    """A capture that raises leaves no hook behind: the next pass calls only its own capture."""
    profile = load_model(saved("gpt2"), "float32", "cpu").stack("decoder")

    def fail(layer: int, hidden: Tensor) -> None:
        raise ArithmeticError(layer)

    with pytest.raises(ArithmeticError):
        profile.forward_and_capture(ids, fail)
    assert len(states(profile, ids)) == 5


def test_states_are_handed_out_not_kept(saved: Saved, ids: Tensor) -> None:
    """`capture` runs during the forward pass: block 2 has not run when the state of block 1 arrives."""
    model = load_model(saved("gpt2"), "float32", "cpu")
    order: list[str] = []
    model.module.transformer.h[1].register_forward_pre_hook(lambda module, args: order.append("block 2"))
    model.stack("decoder").forward_and_capture(ids[:1], lambda layer, hidden: order.append(f"state {layer}"))
    assert order == ["state 0", "state 1", "block 2", "state 2", "state 3", "state 4"]
