"""Checks of a loaded model on a few tokens: captured states, direction of the attention, logits of the head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PretrainedConfig

from pipeline.errors import CheckpointError

N_TOKENS = 8
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Tolerance relative to the largest absolute value, by dtype. It allows for the rounding of different kernels."""
HALF_TOLERANCE = 0.03
"""The same tolerance for all other dtypes."""


def sample_ids(config: PretrainedConfig, device: torch.device) -> Tensor:
    """Return the ids of one context `[1, tokens]`: up to N_TOKENS ids that config.json does not name as special tokens.

    The ids differ from each other if the vocabulary is large enough.
    """
    text = config.get_text_config()
    parts = (config, text)
    given = [value for part in parts for name, value in part.to_dict().items() if name.endswith(("token_id", "_index"))]
    special = {value for value in given if isinstance(value, int)}
    ids = [id_ for id_ in range(min(text.vocab_size, 1000)) if id_ not in special] or [0]
    step = max(len(ids) // N_TOKENS, 1)
    return torch.tensor([(ids[::step] * N_TOKENS)[: _n_tokens(text)]], device=device)


def is_close(a: Tensor, b: Tensor) -> bool:
    """Return True if the tensors have the same shape and are equal within TOLERANCE."""
    if a.shape != b.shape or isinstance(a, FakeTensor):
        return a.shape == b.shape  # a dry run has shapes, but no values
    a, b, tolerance = a.float(), b.float(), TOLERANCE.get(a.dtype, HALF_TOLERANCE)
    return bool((a - b).abs().max() <= tolerance * a.abs().max().clamp(min=1e-30))


def agrees_with_own_states(captured: Sequence[Tensor], final: Tensor, own: Sequence[Tensor] | None) -> bool:
    """Return True if the captured states of layers 0..L equal `own`, the hidden states that the model itself returns.

    Models return the output of the last block, the state after the final norm, or both, and some (Mamba) omit the
    embedding; all these forms are accepted. If `own` is empty or None, there is nothing to compare, which also gives
    True.
    """
    if not own:
        return True
    normed = [[*captured[:-1], final], [*captured, final], [*captured[1:], final]]
    return any(len(own) == len(states) and all(map(is_close, own, states)) for states in (captured, *normed))


def require_direction(
    body: nn.Module, expects_causal: bool, states: Sequence[Tensor], changed: Sequence[Tensor]
) -> None:
    """Check the direction of the attention from the states of two contexts that differ only after the first token.

    Args:
        states: states of the first context, one tensor per layer.
        changed: states of the second context.

    Raises:
        CheckpointError: the states of the first token differ although config.json describes a causal model, or are
            equal although config.json describes a bidirectional model.
    """
    moved = [layer for layer, (a, b) in enumerate(zip(states, changed, strict=True)) if not is_close(a[:, 0], b[:, 0])]
    equal = all(torch.equal(a[:, 0], b[:, 0]) for a, b in zip(states, changed, strict=True))
    if expects_causal and moved:
        found = f"config.json describes a causal model, but its first token sees later ones, from layer {moved[0]}"
        raise _mismatch(
            body, found, "Write is_causal: false into config.json, or is_decoder: true if it should be causal"
        )
    if not expects_causal and equal and states[0].shape[1] > 1:
        found = "config.json describes a bidirectional model, but its first token does not attend to later ones"
        raise _mismatch(body, found, "Name a class for causal language models in `architectures`, or fix is_decoder")


def require_own_logits(module: nn.Module, ours: Tensor, own: Any) -> None:
    """Check that the head applied to the final state gives the model's own logits; CheckpointError if not."""
    theirs = (own.logits if "logits" in own else own.prediction_logits)[0]
    if not is_close(theirs, ours):
        off = (
            f"off by {(theirs.float() - ours.float()).abs().max():.3g}"
            if theirs.shape == ours.shape
            else "they have different shapes"
        )
        found = f"its logits differ from those of its head on the final state ({off})"
        raise _mismatch(module, found, "Leave this model out, or extend pipeline/model/loss.py")


def _n_tokens(text: Any) -> int:
    stated = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    return min(N_TOKENS, stated) if isinstance(stated, int) and stated > 0 else N_TOKENS  # XLNet states -1


def _mismatch(module: nn.Module, found: str, do: str) -> CheckpointError:
    return CheckpointError(f"model of class {type(module).__name__}", found, do)
