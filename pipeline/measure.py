"""One checkpoint, one corpus, one recipe: from weights and text to one row per layer. The Methods section.

The contexts of the corpus pass through the model once. From every layer's hidden states the recipe's moment
positions enter the moments (with sinks and without), and its kept positions make up the point cloud; nothing grows
with the corpus. Then each layer is described: its spectrum from the moments, its dimension from the exact k-NN graph
of the cloud, both with standard errors over disjoint groups of contexts.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import geometry
from pipeline.corpora import Batch, Contexts, contexts
from pipeline.geometry import Cloud, LayerMoments, Stream, describe_layer
from pipeline.loss import Loss
from pipeline.model import Model, Profile, Tokenizer, load, load_tokenizer
from pipeline.rows import Row, about_cell, about_cost, about_text, merged
from pipeline.spec import Cell, Checkpoint, Recipe, Resources


@dataclass(frozen=True)
class Opened:
    """A checkpoint ready to be measured."""

    model: Model
    tokenizer: Tokenizer
    device: str
    load_s: float


@dataclass(frozen=True)
class Observed:
    """What one pass over the corpus leaves behind."""

    moments: list[LayerMoments]
    clouds: list[Cloud]
    loss: Loss
    forward_s: float


def open_checkpoint(checkpoint: Checkpoint, recipe: Recipe, resources: Resources) -> Opened:
    """Load weights and tokenizer strictly, on this task's device and threads."""
    started = time.perf_counter()
    geometry.set_threads(resources.threads)
    device = "cuda" if resources.gpus else "cpu"
    model = load(Path(checkpoint.path), recipe.dtype, device)
    tokenizer = load_tokenizer(Path(checkpoint.tokenizer_path))
    return Opened(model, tokenizer, device, time.perf_counter() - started)


def measure(cell: Cell, opened: Opened, batch_tokens: int) -> list[Row]:
    """The rows of one cell, one per layer, in layer order.

    Args:
        batch_tokens: tokens per forward pass; changes no number.

    Raises:
        CorpusError: too little text for the recipe, or contexts longer than the model can read.
    """
    started = time.perf_counter()
    model, recipe = opened.model, cell.recipe
    profile = model.profile(cell.kind)
    text = contexts(
        cell.corpus, recipe, opened.tokenizer, model.vocab_size, model.max_positions, cell.checkpoint.tokenizer_digest
    )
    seen = observe(profile, text, recipe, opened, batch_tokens)
    layers = [describe_layer(m, c, recipe) for m, c in zip(seen.moments, seen.clouds, strict=True)]
    about = about_cell(cell, model, profile) | about_text(text) | seen.loss.columns()
    cost = about_cost(opened.device, opened.load_s, seen.forward_s, time.perf_counter() - started)
    flags = (*model.flags, *profile.flags, *text.flags, *seen.loss.flags)
    return [merged(about | cost, state, layer, flags) for state, layer in zip(profile.states, layers, strict=True)]


def observe(profile: Profile, text: Contexts, recipe: Recipe, opened: Opened, batch_tokens: int) -> Observed:
    """Forward every context once; keep each layer's moments and cloud, and the loss."""
    started = time.perf_counter()
    widths = [state.width for state in profile.states]
    stream = Stream(widths, text.moment_rows_per_group, recipe.sink_multiple, opened.device)
    clouds = [Cloud(text.n_kept, width, opened.model.module.dtype, opened.device) for width in widths]
    loss = Loss(profile, recipe, opened.tokenizer.mask_id, text.n_groups)
    for batch in text.batches(batch_tokens):
        ids = torch.from_numpy(batch.ids).to(opened.device)
        rows = SampledRows(batch, len(widths), opened.device)
        loss.add(ids, profile.forward(ids, rows.take), batch.context_group)
        for layer, cloud in enumerate(clouds):
            stream.put(layer, rows.moments(layer))
            cloud.put(rows.kept(layer), batch.kept_context, batch.kept_token, batch.kept_group)
        stream.step(torch.from_numpy(batch.moment_first), torch.from_numpy(batch.moment_group))
    return Observed(stream.close(), clouds, loss, time.perf_counter() - started)


class SampledRows:
    """Picks out of every state, as it passes, the rows that a batch samples; the state itself is never kept."""

    def __init__(self, batch: Batch, n_layers: int, device: str) -> None:
        self._tokens = batch.ids.shape[1]
        self._wanted = [(rows, torch.from_numpy(rows).to(device)) for rows in (batch.moment_rows, batch.kept_rows)]
        self._passed = [0] * n_layers
        self._taken: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(n_layers)]

    def take(self, layer: int, hidden: Tensor) -> None:
        """`hidden` [contexts, tokens, dim] of the next contexts of the batch."""
        first = self._passed[layer]
        self._passed[layer] = last = first + len(hidden) * self._tokens
        for (rows, indices), taken in zip(self._wanted, self._taken[layer], strict=True):
            low, high = np.searchsorted(rows, (first, last))
            taken.append(hidden.flatten(0, 1)[indices[low:high] - first])

    def moments(self, layer: int) -> Tensor:
        """`[moments, dim]` of a layer, in the model's dtype."""
        return torch.cat(self._taken[layer][0])

    def kept(self, layer: int) -> Tensor:
        """`[kept, dim]` likewise."""
        return torch.cat(self._taken[layer][1])
