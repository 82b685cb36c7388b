"""One checkpoint, one corpus, one recipe: from weights and text to one row per layer. The Methods section.

The contexts of the corpus pass through the model once. From every layer's hidden states the recipe's moment
positions enter the moments (with sinks and without), and its kept positions make up the point cloud; nothing grows
with the corpus. Then each layer is described: its spectrum from the moments, its dimension from the exact k-NN graph
of the cloud, both with standard errors over disjoint groups of contexts.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import geometry
from pipeline.catalog.digests import require_unchanged
from pipeline.corpora import Contexts, contexts
from pipeline.errors import UsageError
from pipeline.geometry import Cloud, LayerMoments, Stream, describe_layer
from pipeline.loss import Loss
from pipeline.model import Model, Profile, Tokenizer, load, load_tokenizer
from pipeline.rows import Row, about_cell, about_cost, about_text, merged
from pipeline.sampler import Sampler
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
    """Load weights and tokenizer strictly, on this task's device and threads.

    Raises:
        ChangedError: the files are not those that were planned; told also where that is why they cannot be loaded.
        CheckpointError: they cannot be loaded.
        UsageError: a GPU is asked for and there is none.
    """
    started = time.perf_counter()
    geometry.set_threads(resources.threads)
    device = _device(resources)
    try:
        model = load(Path(checkpoint.path), recipe.dtype, device)
        tokenizer = load_tokenizer(Path(checkpoint.tokenizer_path))
    finally:
        require_unchanged(checkpoint)  # afterwards, so that files replaced while they were read are noticed too
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
    stream = Stream(widths, text.moment_rows_per_group, recipe.sink_multiple, next_raw(profile), opened.device)
    clouds = [Cloud(text.n_kept, width, opened.model.module.dtype, opened.device) for width in widths]
    sampler = Sampler(stream, clouds, opened.device)
    loss = Loss(profile, recipe, opened.tokenizer.mask_id, text.n_groups)
    for batch in text.batches(batch_tokens):
        ids = torch.from_numpy(batch.ids).to(opened.device)
        sampler.begin(batch)
        loss.add(ids, profile.forward(ids, sampler.take), batch.special, batch.context_group)
        sampler.end()
    return Observed(stream.close(), clouds, loss, time.perf_counter() - started)


def next_raw(profile: Profile) -> list[int | None]:
    """For layers 0..L-1 the layer that their linear map leads to; none for the last block and the final norm."""
    return [state.layer + 1 if state.layer < profile.n_layers else None for state in profile.states]


def _device(resources: Resources) -> str:
    if not resources.gpus:
        return "cpu"
    if not torch.cuda.is_available():
        raise UsageError(
            f"resources.gpus={resources.gpus}", "no CUDA device", "Set resources.gpus=0, or run where there is a GPU"
        )
    return "cuda"
