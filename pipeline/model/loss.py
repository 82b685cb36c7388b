"""Per-token loss of a model from its last hidden state."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

LOGITS_PER_CHUNK = {"cpu": 2**24, "cuda": 2**27}
"""Number of logits per chunk, by device type. With temporaries, a logit takes about 10 bytes, so a chunk takes 1.3 GB
on a GPU. With smaller chunks, the GPU would wait for the host."""


def token_losses(
    module: PreTrainedModel,
    body: nn.Module,
    output: Any,
    hidden: Float[Tensor, "tokens dim"],
    targets: Int[Tensor, " tokens"],
) -> Float[Tensor, " tokens"]:
    """Return the cross entropy in nats of each target under the head of `module`, computed from float32 logits.

    The head is the class's own code between the last hidden state and the logits, including any transform, bias,
    scaling or soft-capping. To run only this code, `body` is patched while `module` runs: it returns its earlier result
    `output`, with `hidden` as the last hidden state. This is not thread-safe.

    Args:
        output: output of `body` in an earlier forward pass.
        hidden: last hidden state from which each target is predicted.
    """
    size = max(LOGITS_PER_CHUNK[hidden.device.type] // module.config.get_text_config().vocab_size, 1)
    losses = [
        F.cross_entropy(head_logits(module, body, output, part).float(), target, reduction="none")
        for part, target in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(losses)


def head_logits(module: PreTrainedModel, body: nn.Module, output: Any, hidden: Float[Tensor, "tokens dim"]) -> Tensor:
    """Return the logits `[tokens, vocabulary]` of the head of `module` for `hidden` as the last hidden state."""
    with _replaying(body, output, hidden[None]):
        result = module(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device))
    return (result.logits if "logits" in result else result.prediction_logits)[0]


@contextmanager
def _replaying(body: nn.Module, output: Any, hidden: Tensor) -> Iterator[None]:
    replay = copy.copy(output)
    replay.last_hidden_state = hidden
    body.forward = lambda *args, **kwargs: replay
    try:
        yield
    finally:
        del body.forward  # restores the method of the class
