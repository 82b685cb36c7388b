"""Probe of a live model on a fixed batch. In milliseconds, it measures the loss and the geometry of every layer."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import UsageError
from pipeline.geometry.group_estimates import MIN_POINTS
from pipeline.geometry.input_forms import to_integers
from pipeline.geometry.metrics.anisotropy import anisotropy
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.moments import Moments
from pipeline.geometry.neighbors import build_exact_graph
from pipeline.model.blocks import capture_states, count_layers, find_body, find_hook_points
from pipeline.model.loss import token_losses

NEIGHBORS = 2


class LayerReading(NamedTuple):
    """Metrics of one layer.

    All are None if hidden states have NaN or infinity, or are all equal. The two dimensions are also None with fewer
    than 100 distinct points, or if the distances to the two nearest neighbours are equal at every point.
    """

    layer: int
    """0 = input of the first block, i = output of block i (1..L)."""
    anisotropy: float | None
    id_twonn: float | None
    id_mle: float | None


class Reading(NamedTuple):
    """Result of one reading of a probe."""

    loss: float | None
    """Next-token loss in nats per token; None if it is not finite."""
    layers: tuple[LayerReading, ...]
    """Readings of the measured layers, in order."""


class Probe:
    """Probe that measures a decoder on the same tokens every time, so that changes come from the model alone.

    The error of a fixed sample is unknown. Readings of one probe can therefore be compared with each other, but not
    with measurements by a recipe.

    Args:
        ids: token ids `[contexts, tokens]`, an array, a tensor or lists of equal length, without padding. The text
            should be held out from training.
        points: maximum number of points of the k-NN cloud. They are drawn once from all tokens except the first of each
            context.
        layers: layers to measure; None = all layers.
        seed: seed of the draw.

    Raises:
        UsageError: `ids` is not a matrix of integers, or has fewer than 100 tokens besides the first of each context.
    """

    def __init__(self, ids: Any, points: int = 1024, layers: Collection[int] | None = None, seed: int = 0) -> None:
        ids = to_integers("ids of a probe", ids)
        if ids.ndim != 2:
            found = f"an array of shape {tuple(ids.shape)}"
            raise UsageError("ids of a probe", found, "Give token ids [contexts, tokens] of equal length")
        n_contexts, length = ids.shape
        if n_contexts * (length - 1) < MIN_POINTS:
            found = f"{n_contexts} contexts of {length} tokens"
            do = f"Give at least {MIN_POINTS} tokens besides the first of each context"
            raise UsageError("ids of a probe", found, do)
        later = (torch.arange(n_contexts)[:, None] * length + torch.arange(1, length)).flatten()
        chosen = torch.randperm(len(later), generator=torch.Generator().manual_seed(seed))[:points]
        self._ids, self._rows, self._layers = ids.cpu(), later[chosen].sort().values, layers

    def read(self, module: PreTrainedModel) -> Reading:
        """Measure the model in one forward pass; training mode, gradients and random generators are not changed."""
        states: dict[int, Tensor] = {}

        def take(layer: int, hidden: Tensor) -> None:
            if self._layers is None or layer in self._layers:
                states[layer] = hidden.flatten(0, 1).clone()

        body = find_body(module, "decoder")
        blocks = find_hook_points(body, count_layers(body, "decoder"))
        with torch.inference_mode(), _evaluating(module):
            ids = self._ids.to(module.device)
            with capture_states(blocks, take, module.device):
                output = body(input_ids=ids, use_cache=False)
            hidden = output.last_hidden_state[:, :-1].flatten(0, 1)
            loss = float(token_losses(module, body, output, hidden, ids[:, 1:].flatten()).mean())
            rows = self._rows.to(module.device)
            layers = tuple(_read_layer(layer, states.pop(layer), rows) for layer in sorted(states))
        return Reading(loss if torch.isfinite(torch.tensor(loss)) else None, layers)


@contextmanager
def _evaluating(module: PreTrainedModel) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _read_layer(layer: int, hidden: Float[Tensor, "tokens dim"], rows: Int[Tensor, " points"]) -> LayerReading:
    if not bool(hidden.isfinite().all()):
        return LayerReading(layer, None, None, None)
    moments = Moments.empty(hidden.double().mean(0))
    moments.add_rows(hidden)
    spread = float(moments.covariance().trace())
    if not 0 < spread < float("inf"):
        return LayerReading(layer, None, None, None)
    radii = build_exact_graph(hidden[rows], NEIGHBORS).radii
    if len(radii) < MIN_POINTS or not bool((radii[:, 1] > radii[:, 0]).any()):
        return LayerReading(layer, anisotropy(moments), None, None)
    return LayerReading(layer, anisotropy(moments), id_twonn(radii), id_mle(radii))
