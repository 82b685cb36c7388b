"""Measurement of one full checkpoint, against a bare forward pass over the same tokens and against a plain script."""

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.bench import peers
from jobs.bench.comparison import Comparison, Subject, Unit, at_least, at_most, compared, unit_on
from jobs.bench.data import curved, forward_floor
from jobs.bench.decoder import build_decoder, build_tokenizer
from jobs.bench.scale import Model, Scale
from jobs.bench.timing import Contender, Took, interleaved, timed
from pipeline.corpora import build_contexts
from pipeline.measure import measure
from pipeline.measurement.loaded_checkpoint import LoadedCheckpoint
from pipeline.model import LayerStack, Tokenizer
from pipeline.model import Model as LoadedModel
from pipeline.spec import Cell, Checkpoint, ContextRecipe, Corpus

BATCH_TOKENS = {"cpu": 256, "cuda": 32_768}
_IN_MEMORY = Checkpoint(
    model="random",
    revision="main",
    path="",
    tokenizer_path="",
    kinds=("decoder",),
    weights_digest="",
    config_digest="",
    tokenizer_digest="",
)
BARE, PLAIN, FLOOR = "bare forward pass", "plain script", "2 x parameters x tokens at the measured matmul rate"


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    model = scale.model
    loaded = build(model.layers, model.dim, model.vocabulary, recipe_of(model, device), device)
    took = interleaved(_contenders(loaded, scale, device), model.rounds)
    yield from _compared(took, scale, unit_on(device))


class Loaded(NamedTuple):
    """Loaded checkpoint and its input tokens."""

    cell: Cell
    checkpoint: LoadedCheckpoint
    ids: Tensor
    """[contexts, tokens], the same tokens that the cell measures."""


def _contenders(loaded: Loaded, scale: Scale, device: str) -> dict[str, Contender]:
    model = loaded.checkpoint.model
    contenders = {
        "ours": timed(lambda: measure(loaded.cell, loaded.checkpoint, BATCH_TOKENS[device]), device),
        BARE: lambda: _bare(loaded, scale.bare_contexts),
        FLOOR: forward_floor(model.n_params, loaded.ids.numel(), scale.model.dim, model.module.dtype, device),
        PLAIN: lambda: _plain(loaded, scale, device),
    }
    if peers.AUTHORS in peers.absent():
        del contenders[PLAIN]
    return contenders


def _compared(took: dict[str, list[Took]], scale: Scale, unit: Unit) -> Iterator[Comparison]:
    model, tokens = scale.model, scale.model.contexts * scale.model.tokens
    full = Subject("measure", f"checkpoint of {model.layers} layers, all metrics", tokens, model.dim)
    bare = Subject("measure", BARE, tokens, model.dim)
    on_top, gain = at_most(scale.on_top).only_if(scale.full), at_least(12.0).only_if(scale.full)
    utilisation = at_most(scale.utilisation and 1 / scale.utilisation).only_if(scale.full)
    slice_ = f"from {min(scale.bare_contexts, model.contexts)} contexts"
    yield compared(full, took["ours"], BARE, took[BARE], on_top, unit, f"{slice_}; {_rate(tokens, took['ours'])}")
    if PLAIN in took:
        note = f"from {scale.plain_contexts} contexts, one layer and {scale.authors_points} points of its loop"
        yield compared(full, took["ours"], PLAIN, took[PLAIN], gain, unit, note)
    yield compared(bare, took[BARE], FLOOR, took[FLOOR], utilisation, unit, _rate(tokens, took[BARE]))


def _rate(tokens: int, took: list[Took]) -> str:
    return f"ours at {tokens / median(round_.wall for round_ in took):,.0f} tokens/s"


def recipe_of(model: Model, device: str) -> ContextRecipe:
    """Return the recipe by which the decoder of this size is measured."""
    return ContextRecipe(
        name="bench",
        version=1,
        contexts=model.contexts,
        context_tokens=model.tokens,
        kept_per_context=model.kept,
        moment_tokens=model.moments,
        dtype="bfloat16" if device == "cuda" else "float32",
    )


def build(layers: int, dim: int, vocabulary: int, recipe: ContextRecipe, device: str) -> Loaded:
    """Build a decoder with random weights on the device, as if it were loaded, and draw the tokens of the recipe."""
    dtype = getattr(torch, recipe.dtype)
    module = build_decoder(layers, dim, vocabulary, recipe.context_tokens, device, dtype)
    tokenizer = Tokenizer(build_tokenizer(vocabulary))
    model = LoadedModel(module, {"decoder": LayerStack(module, "decoder")}, (), ())
    cell = Cell(checkpoint=_IN_MEMORY, kind="decoder", corpus=Corpus(kind="random-uniform"), recipe=recipe)
    text = build_contexts(cell.corpus, recipe, tokenizer, model.vocab_size, model.max_positions, "")
    ids = torch.from_numpy(np.stack(text.ids)).long().to(device)
    return Loaded(cell, LoadedCheckpoint(model, tokenizer, device, load_s=0.0), ids)


def _bare(loaded: Loaded, n: int) -> Took:
    """Time the forward pass over the first `n` contexts, and scale the time up to all contexts."""
    first = loaded.ids[:n]
    return timed(lambda: _forward(loaded, first), first.device.type)().times(len(loaded.ids) / len(first))


def _forward(loaded: Loaded, ids: Tensor, output_hidden_states: bool = False) -> list[tuple[Tensor, ...]]:
    """Run the whole model, logits included; return the hidden states of each batch if `output_hidden_states`."""
    batch = max(BATCH_TOKENS[ids.device.type] // ids.shape[1], 1)
    with torch.inference_mode():
        passes = (
            loaded.checkpoint.model.module(input_ids=part, output_hidden_states=output_hidden_states)
            for part in ids.split(batch)
        )
        return [output.hidden_states or () for output in passes]


def _plain(loaded: Loaded, scale: Scale, device: str) -> Took:
    """Time a plain script: transformers with `output_hidden_states`, then the authors' functions on every layer.

    The forward pass is timed on a few contexts, and the functions on one layer with as many points as ours; both times
    are scaled up to the whole checkpoint.
    """
    model = scale.model
    first = loaded.ids[: scale.plain_contexts]
    forward = timed(lambda: _collect_states(_forward(loaded, first, output_hidden_states=True)), device)()
    moments, following = (curved(model.contexts * model.moments, model.dim, device, seed) for seed in (0, 1))
    cloud = curved(model.contexts * model.kept, model.dim, device)
    published = peers.authors()
    spectrum = timed(lambda: published.calculate_anisotropy_torch(moments), device)()
    linearity = timed(lambda: published.procrustes_similarity(moments, following), device)()
    layer = spectrum.plus(linearity).plus(peers.authors_loop(cloud, scale.authors_points))
    return forward.times(len(loaded.ids) / len(first)).plus(layer.times(model.layers + 1))


def _collect_states(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Concatenate the hidden states of all batches per layer, as plain scripts do."""
    return [torch.cat([state.flatten(0, 1) for state in layer]) for layer in zip(*batches, strict=True)]
