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
    """Position in the model at which hidden states are captured."""

    layer: int
    """0 = input of the first block, 1..L = output of block i, L+1 = output of the body after its final norm."""
    depth: float
    """layer / L; 1 for the final norm."""
    name: Literal["embedding", "block", "final_norm"]
    width: int


class LayerStack:
    """One stack of blocks: a decoder, an encoder, or either half of an encoder-decoder.

    Contexts of one call have equal length and no padding. Elementwise kernels round differently in the body and the
    tail of a SIMD loop, so the last digits of a state depend on the other contexts of the same call. CheckpointError is
    raised if the blocks cannot be found or do not return [contexts, tokens, dim].
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
        """Kind of the model's own loss: causal (see `forward_and_capture`), masked (`masked_token_losses`) or none."""
        if self._module.get_output_embeddings() is None:
            return None
        own: dict[ModelKind, Literal["causal", "masked"]] = {"decoder": "causal", "encoder": "masked"}
        return own.get(self.kind) if self.kind == self._class_kind else None

    @property
    def flags(self) -> tuple[str, ...]:
        """`no_own_loss` if plain text does not define the training loss.

        This is the case for both halves of an encoder-decoder (span corruption), and for a class whose loss does not
        match the model's attention, such as a causal class with bidirectional attention.
        """
        has_head = self._module.get_output_embeddings() is not None
        return ("no_own_loss",) if self.kind.startswith("encdec") or (has_head and self.loss_kind is None) else ()

    @property
    def _class_kind(self) -> ModelKind:
        """Kind that the name of the model class implies; the config is ignored."""
        return "encoder" if type(self._module).__name__.endswith(MASKED_CLASS_SUFFIXES) else "decoder"

    def read_by_next_block(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        """Return the input norm of the block after `layer`, as a map of states `[rows, dim]`; None if no block follows.

        If that block has no input norm (post-norm models), the map is the identity.
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
            Causal loss in nats, float32, of tokens 1, 2, ... of each context; None without a causal head.
        """
        ids = ids.to(self._module.device, torch.long)
        with torch.inference_mode():
            output = self._run(ids, capture)
            return self._causal(ids, output) if self.loss_kind == "causal" else None

    def masked_token_losses(
        self, ids: Int[Tensor, "contexts tokens"], masked: Bool[Tensor, "contexts tokens"], mask_id: int
    ) -> Float[Tensor, " masked"] | None:
        """Return the loss in nats, float32, of the tokens at `masked`, in row order; None without a masked-LM head.

        The model reads `mask_id` at every masked position (no 80/10/10 mixture).
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
        """Choose the modules to hook by a forward pass over a few tokens, and return the specs of all states."""
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
        """Return the first hook points whose states equal the model's own, these states, and the final state.

        Raises:
            CheckpointError: no hook points match, or the states are not [contexts, tokens, dim].
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

        The first token must not see later tokens in a causal stack and must see them in an encoder, and the head
        applied to the final state must give the model's own logits.
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
        """Return copies of the states at `points`, in the order of their capture, and the output of the body."""
        states: list[Tensor] = []
        with capture_states(points, lambda _, state: states.append(state), ids.device):
            output = self._call(ids, **options)
        return states, output
