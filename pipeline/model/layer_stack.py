"""One stack of blocks of a model, and the forward pass that streams its hidden states."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.catalog.architectures import MASKED_CLASS_SUFFIXES
from pipeline.model.blocks import (
    HookPoints,
    blocks_error,
    capture_states,
    count_layers,
    decoder_start_token,
    find_block_list,
    find_body,
    list_hook_points,
    record_input_norms,
)
from pipeline.model.loss import head_logits, token_losses
from pipeline.model.verification import agrees_with_own_states, require_direction, require_own_logits, sample_ids
from pipeline.spec import ModelKind

CaptureCallback = Callable[[int, Tensor], None]
"""Callback for a layer index and its hidden states [contexts, tokens, dim], which are valid only during the call."""


class StateSpec(NamedTuple):
    """Place in the model at which hidden states are captured."""

    layer: int
    """0 = input of the first block, i = output of block i (1..L), L+1 = output of the body after its final norm."""
    depth: float
    """layer / L, but 1 for the final norm."""
    name: Literal["embedding", "block", "final_norm"]
    width: int


class LayerStack:
    """One stack of blocks: a decoder, an encoder, or either half of an encoder-decoder.

    The contexts of one call have equal length and no padding. The last digits of a state depend on the other contexts
    of the same call, because elementwise kernels round differently in the body and in the tail of a SIMD loop.

    Raises:
        CheckpointError: the blocks cannot be found or do not return [contexts, tokens, dim].
    """

    def __init__(self, module: PreTrainedModel, kind: ModelKind) -> None:
        self.kind: ModelKind = kind
        self._module = module
        self._body = find_body(module, kind)
        self.n_layers = count_layers(self._body, kind)
        self._start = decoder_start_token(module) if kind == "encdec-decoder" else None
        self.state_specs = self._probe()

    @property
    def loss_kind(self) -> Literal["causal", "masked"] | None:
        """Kind of the model's own loss: causal (see `forward_and_capture`) or masked (see `masked_token_losses`).

        It is None for a model without a head, for both halves of an encoder-decoder, and if the class implies another
        kind of loss than the attention of the model.
        """
        if self._module.get_output_embeddings() is None:
            return None
        own: dict[ModelKind, Literal["causal", "masked"]] = {"decoder": "causal", "encoder": "masked"}
        return own.get(self.kind) if self.kind == self._class_kind else None

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag `no_own_loss` if the training loss cannot be computed from plain text; otherwise empty.

        It cannot for both halves of an encoder-decoder (span corruption), and for a class whose loss does not match the
        model's attention, such as a causal class with bidirectional attention.
        """
        has_head = self._module.get_output_embeddings() is not None
        return ("no_own_loss",) if self.kind.startswith("encdec") or (has_head and self.loss_kind is None) else ()

    @property
    def _class_kind(self) -> ModelKind:
        """Kind that the name of the model class implies, whatever the config says."""
        return "encoder" if type(self._module).__name__.endswith(MASKED_CLASS_SUFFIXES) else "decoder"

    def read_by_next_block(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        """Return the input norm of the block after `layer` as a function of states `[rows, dim]`.

        The function is the identity if that block has no input norm (post-norm models). The result is None if no block
        follows.
        """
        if layer >= min(self.n_layers, len(self._input_norms)):
            return None
        norm = self._input_norms[layer]
        if norm is None:
            return lambda states: states
        device = next((weight.device for weight in norm.parameters()), self._module.device)
        return lambda states: norm(states.to(device)).to(states.device)

    def forward_and_capture(
        self, ids: Int[Tensor, "contexts tokens"], capture: CaptureCallback
    ) -> Float[Tensor, "contexts predicted"] | None:
        """Run the contexts through the model and pass every state to `capture` as it is computed; none is stored.

        The decoder of an encoder-decoder reads the context shifted right by one, so position i predicts token i.

        Returns:
            Causal loss in nats, float32, of the tokens 1, 2, ... (all but the first) of each context; None if
            `loss_kind` is not causal.
        """
        ids = ids.to(self._module.device, torch.long)
        with torch.inference_mode():
            output = self._run(ids, capture)
            return self._causal(ids, output) if self.loss_kind == "causal" else None

    def masked_token_losses(
        self, ids: Int[Tensor, "contexts tokens"], masked: Bool[Tensor, "contexts tokens"], mask_id: int
    ) -> Float[Tensor, " masked"] | None:
        """Return the loss in nats, float32, of each token for which `masked` is True, context by context.

        The model reads `mask_id` at every masked position, without the 80/10/10 mixture of BERT. The result is None if
        `loss_kind` is not masked.
        """
        if self.loss_kind != "masked":
            return None
        ids, masked = ids.to(self._module.device, torch.long), masked.to(self._module.device)
        with torch.inference_mode():
            output = self._call(ids.masked_fill(masked, mask_id))
            return token_losses(self._module, self._body, output, output.last_hidden_state[masked], ids[masked])

    def _causal(self, ids: Tensor, output: Any) -> Tensor:
        hidden, targets = output.last_hidden_state[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        return token_losses(self._module, self._body, output, hidden, targets).view(len(ids), -1)

    def _run(self, ids: Tensor, capture: CaptureCallback) -> Any:
        with capture_states(self._blocks, capture, self._module.device):
            output = self._call(ids)
        if self.state_specs[-1].name == "final_norm":
            capture(self.n_layers + 1, output.last_hidden_state)
        return output

    def _call(self, ids: Tensor, **options: bool) -> Any:
        if self._start is None:
            return self._body(input_ids=ids, **options)
        context = self._module.get_encoder()(input_ids=ids).last_hidden_state
        shifted = torch.cat([ids.new_full((len(ids), 1), self._start), ids[:, :-1]], dim=1)
        return self._body(input_ids=shifted, encoder_hidden_states=context, **options)

    def _probe(self) -> tuple[StateSpec, ...]:
        """Choose the modules to hook by a forward pass over a few tokens, and return the spec of each layer's state."""
        ids = sample_ids(self._module.config, self._module.device)
        with torch.inference_mode(), record_input_norms(find_block_list(self._body, self.n_layers)) as norms:
            self._blocks, states, final = self._find_own_states(ids)
        self._input_norms = norms[: self.n_layers]
        names = ["embedding"] + ["block"] * self.n_layers
        if final.data_ptr() != states[-1].data_ptr():  # a norm or projection follows the last block
            states = [*states, final]
            names.append("final_norm")
        return tuple(
            StateSpec(layer, min(layer / self.n_layers, 1.0), name, states[layer].shape[-1])  # type: ignore[arg-type]
            for layer, name in enumerate(names)
        )

    def _find_own_states(self, ids: Tensor) -> tuple[HookPoints, list[Tensor], Tensor]:
        """Return (hook points, their states, final state) for the first hook points whose states are right.

        States are right if they equal the hidden states that the model itself returns, if it returns any.

        Raises:
            CheckpointError: no hook points have such states, or the states are not [contexts, tokens, dim].
        """
        reasons = []
        for points in list_hook_points(self._body, self.n_layers):
            states, output = self._states(points, ids, output_hidden_states=True)
            if len(states) != self.n_layers + 1:
                reasons.append(f"{self.n_layers} blocks in config.json, but {len(states) - 1} ran")
            elif any(hidden.shape[:2] != ids.shape for hidden in states):
                reasons.append("the output of its blocks is not [contexts, tokens, dim]")
            elif not agrees_with_own_states(states, output.last_hidden_state, output.get("hidden_states")):
                reasons.append("the outputs of its blocks differ from the hidden states that it returns")
            else:
                return points, states, output.last_hidden_state
        raise blocks_error(self._body, reasons[0])

    def verify(self) -> None:
        """Check on a few tokens that the model behaves as its kind says; raise CheckpointError if not.

        In a causal stack, the first token must not see later tokens; in an encoder, it must see them. The head, applied
        to the final state, must give the model's own logits.
        """
        ids = sample_ids(self._module.config, self._module.device)
        others = torch.cat([ids[:, :1], ids[:, 1:].flip(1).roll(1, 1)], dim=1)
        with torch.inference_mode():
            (states, output), (changed, _) = (self._states(self._blocks, tokens) for tokens in (ids, others))
            states, changed = states[1:], changed[1:]
            if self.kind != "encdec-decoder":  # this decoder sees the whole text through the encoder
                require_direction(self._body, self.kind == "decoder", states, changed)
            if self.loss_kind is not None:
                ours = head_logits(self._module, self._body, output, output.last_hidden_state[0])
                require_own_logits(self._module, ours, self._module(input_ids=ids))

    def _states(self, points: HookPoints, ids: Tensor, **options: bool) -> tuple[list[Tensor], Any]:
        """Return the states at `points`, in the order of their capture, and the output of the body."""
        states: list[Tensor] = []
        with capture_states(points, lambda _, state: states.append(state), ids.device):
            output = self._call(ids, **options)
        return states, output
