"""One stack of blocks of a model, and the forward pass that streams its hidden states."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.model.blocks import (
    blocks_error,
    capture_states,
    count_layers,
    decoder_start_token,
    find_block_list,
    find_body,
    find_hook_points,
    record_input_norms,
)
from pipeline.model.loss import token_losses
from pipeline.spec import ModelKind

CaptureCallback = Callable[[int, Tensor], None]
"""Callback for a layer index and its hidden states [contexts, tokens, dim], which are valid during the call only."""


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

    Contexts of one call have equal length and no padding. On the CPU each context is forwarded separately: elementwise
    kernels round differently in the body and the tail of a SIMD loop, so results would depend on the batch.
    CheckpointError is raised if the blocks cannot be found or do not return [contexts, tokens, dim].
    """

    def __init__(self, module: PreTrainedModel, kind: ModelKind) -> None:
        self.kind: ModelKind = kind
        self._module = module
        self._body = find_body(module, kind)
        self.n_layers = count_layers(self._body, kind)
        self._blocks = find_hook_points(self._body, self.n_layers)
        self._start = decoder_start_token(module) if kind == "encdec-decoder" else None
        self.state_specs = self._probe()

    @property
    def loss_kind(self) -> Literal["causal", "masked"] | None:
        """Kind of the model's own loss: from `forward_and_capture` if causal, from `masked_token_losses` if masked."""
        if self._module.get_output_embeddings() is None:
            return None
        return {"decoder": "causal", "encoder": "masked"}.get(self.kind)  # type: ignore[return-value]

    @property
    def flags(self) -> tuple[str, ...]:
        """`no_own_loss` for either half of an encoder-decoder: span corruption is undefined on plain text."""
        return ("no_own_loss",) if self.kind.startswith("encdec") else ()

    def read_by_next_block(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        """Return the map from states `[rows, dim]` of a layer to what the next block reads: its input norm.

        The identity if the next block has no input norm (post-norm models); None if no block follows.
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

        `capture` gets the contexts of each layer in the order of `ids`: one per call on the CPU, else all at once.
        The decoder of an encoder-decoder reads the context shifted right by one, so position i predicts token i.

        Returns:
            Causal loss in nats, float32, of tokens 1.. of each context; None without a causal head.
        """
        with torch.inference_mode():
            if self.loss_kind == "causal":
                return torch.cat([self._causal(part, self._run(part, capture)) for part in self._parts(ids.long())])
            for part in self._parts(ids.long()):
                self._run(part, capture)
        return None

    def masked_token_losses(
        self, ids: Int[Tensor, "contexts tokens"], masked: Bool[Tensor, "contexts tokens"], mask_id: int
    ) -> Float[Tensor, " masked"] | None:
        """Return the loss in nats, float32, of the tokens at `masked`, in row order; None without a masked-LM head.

        The model reads `mask_id` at every masked position (no 80/10/10 mixture).
        """
        if self.loss_kind != "masked":
            return None
        with torch.inference_mode():
            parts = zip(self._parts(ids.long()), self._parts(masked), strict=True)
            return torch.cat([self._masked(part, mask, mask_id) for part, mask in parts])

    def _causal(self, ids: Tensor, output: Any) -> Tensor:
        hidden, targets = output.last_hidden_state[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        return token_losses(self._module, self._body, output, hidden, targets).view(len(ids), -1)

    def _masked(self, ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
        output = self._call(ids.masked_fill(masked, mask_id))
        return token_losses(self._module, self._body, output, output.last_hidden_state[masked], ids[masked])

    def _parts(self, tensor: Tensor) -> tuple[Tensor, ...]:
        tensor = tensor.to(self._module.device)
        return tensor.split(1) if tensor.device.type == "cpu" else (tensor,)

    def _run(self, ids: Tensor, capture: CaptureCallback) -> Any:
        with capture_states(self._blocks, capture, self._module.device):
            output = self._call(ids)
        if self.state_specs[-1].name == "final_norm":
            capture(self.n_layers + 1, output.last_hidden_state)
        return output

    def _call(self, ids: Tensor) -> Any:
        if self._start is None:
            return self._body(input_ids=ids)
        context = self._module.get_encoder()(input_ids=ids).last_hidden_state
        shifted = torch.cat([ids.new_full((len(ids), 1), self._start), ids[:, :-1]], dim=1)
        return self._body(input_ids=shifted, encoder_hidden_states=context)

    def _probe(self) -> tuple[StateSpec, ...]:
        """Return the specs of all states, found by a forward pass over three tokens."""
        states: dict[int, Tensor] = {}
        ids = torch.zeros(1, 3, dtype=torch.long, device=self._module.device)
        with (
            torch.inference_mode(),
            record_input_norms(find_block_list(self._body, self.n_layers)) as self._input_norms,
            capture_states(self._blocks, states.__setitem__, ids.device),
        ):
            final = self._call(ids).last_hidden_state
        if len(states) != self.n_layers + 1:
            raise blocks_error(self._body, f"{self.n_layers} blocks in config.json, but {len(states) - 1} ran")
        if any(hidden.shape[:2] != ids.shape for hidden in states.values()):
            raise blocks_error(self._body, "the output of its blocks is not [contexts, tokens, dim]")
        names = ["embedding"] + ["block"] * self.n_layers
        if final.data_ptr() != states[self.n_layers].data_ptr():  # a norm or projection follows the last block
            states[self.n_layers + 1] = final
            names.append("final_norm")
        return tuple(
            StateSpec(layer, min(layer / self.n_layers, 1.0), name, states[layer].shape[-1])  # type: ignore[arg-type]
            for layer, name in enumerate(names)
        )
