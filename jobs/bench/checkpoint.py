"""One checkpoint whole, beside a bare forward pass of the same tokens and beside the plain script one would write."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.bench import peers
from jobs.bench.comparison import Comparison, Subject, Unit, at_least, at_most, compared, unit_on
from jobs.bench.data import curved, forward_floor
from jobs.bench.decoder import save_decoder
from jobs.bench.scale import Model, Scale
from jobs.bench.timing import Contender, Took, interleaved, timed
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.corpora import build_contexts
from pipeline.measure import LoadedCheckpoint, load_checkpoint, measure
from pipeline.spec import Cell, ContextRecipe, Corpus, Resources

BATCH_TOKENS = {"cpu": 256, "cuda": 32_768}
BARE, PLAIN, FLOOR = "bare forward pass", "plain script", "2 x parameters x tokens at the measured matmul rate"


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        save_decoder(Path(folder), scale.model.layers, scale.model.dim, scale.model.vocabulary, scale.model.tokens)
        loaded = load(Path(folder), _recipe(scale.model, device), device)
        took = interleaved(_contenders(loaded, scale, device), scale.model.rounds)
        yield from _compared(took, scale, unit_on(device))


class Loaded(NamedTuple):
    """A checkpoint and what it reads."""

    cell: Cell
    opened: LoadedCheckpoint
    ids: Tensor
    """[contexts, tokens], the very ones that the cell reads."""


def _contenders(loaded: Loaded, scale: Scale, device: str) -> dict[str, Contender]:
    model = loaded.opened.model
    contenders = {
        "ours": timed(lambda: measure(loaded.cell, loaded.opened, BATCH_TOKENS[device]), device),
        BARE: lambda: _bare(loaded, scale.bare_contexts),
        FLOOR: forward_floor(model.n_params, loaded.ids.numel(), scale.model.dim, model.module.dtype, device),
        PLAIN: lambda: _plain(loaded, scale, device),
    }
    if peers.AUTHORS in peers.absent():
        del contenders[PLAIN]
    return contenders


def _compared(took: dict[str, list[Took]], scale: Scale, unit: Unit) -> Iterator[Comparison]:
    model, tokens = scale.model, scale.model.contexts * scale.model.tokens
    whole = Subject("measure", f"checkpoint of {model.layers} layers, all metrics", tokens, model.dim)
    bare = Subject("measure", BARE, tokens, model.dim)
    on_top, gain = at_most(scale.on_top).only_if(scale.full), at_least(12.0).only_if(scale.full)
    utilised = at_most(scale.utilised and 1 / scale.utilised).only_if(scale.full)
    slice_ = f"from {min(scale.bare_contexts, model.contexts)} contexts"
    yield compared(whole, took["ours"], BARE, took[BARE], on_top, unit, f"{slice_}; {_rate(tokens, took['ours'])}")
    if PLAIN in took:
        note = f"from {scale.plain_contexts} contexts, one layer and {scale.authors_points} points of its loop"
        yield compared(whole, took["ours"], PLAIN, took[PLAIN], gain, unit, note)
    yield compared(bare, took[BARE], FLOOR, took[FLOOR], utilised, unit, _rate(tokens, took[BARE]))


def _rate(tokens: int, took: list[Took]) -> str:
    return f"ours at {tokens / median(one.wall for one in took):,.0f} tokens/s"


def _recipe(model: Model, device: str) -> ContextRecipe:
    return ContextRecipe(
        name="bench",
        version=1,
        contexts=model.contexts,
        context_tokens=model.tokens,
        kept_per_context=model.kept,
        moment_tokens=model.moments,
        dtype="bfloat16" if device == "cuda" else "float32",
    )


def load(folder: Path, recipe: ContextRecipe, device: str) -> Loaded:
    """A checkpoint folder, and the random tokens that the recipe has it read."""
    checkpoint, corpus = inspect_checkpoint(folder), Corpus(kind="random-uniform")
    resources = Resources(gpus=int(device == "cuda"), cpus=torch.get_num_threads())
    opened = load_checkpoint(checkpoint, recipe, resources)
    cell = Cell(checkpoint=checkpoint, kind="decoder", corpus=corpus, recipe=recipe)
    of_model = opened.model.vocab_size, opened.model.max_positions
    text = build_contexts(corpus, recipe, opened.tokenizer, *of_model, checkpoint.tokenizer_digest)
    return Loaded(cell, opened, torch.from_numpy(np.stack(text.ids)).long().to(device))


def _bare(loaded: Loaded, n: int) -> Took:
    """The pass over the first `n` contexts, scaled up to all of them."""
    some = loaded.ids[:n]
    return timed(lambda: _forward(loaded, some), some.device.type)().times(len(loaded.ids) / len(some))


def _forward(loaded: Loaded, ids: Tensor, output_hidden_states: bool = False) -> list[tuple[Tensor, ...]]:
    """The model over the contexts, logits and all; of each batch the hidden states where they are asked for."""
    batch = max(BATCH_TOKENS[ids.device.type] // ids.shape[1], 1)
    with torch.inference_mode():
        passes = (
            loaded.opened.model.module(input_ids=part, output_hidden_states=output_hidden_states)
            for part in ids.split(batch)
        )
        return [output.hidden_states or () for output in passes]


def _plain(loaded: Loaded, scale: Scale, device: str) -> Took:
    """transformers with `output_hidden_states`, then the authors' functions layer by layer on the same sample sizes.

    The pass is timed on a few contexts; the functions on one layer of points of the same shapes.
    """
    model = scale.model
    some = loaded.ids[: scale.plain_contexts]
    passed = timed(lambda: _kept(_forward(loaded, some, output_hidden_states=True)), device)()
    moments, following = (curved(model.contexts * model.moments, model.dim, device, seed) for seed in (0, 1))
    cloud = curved(model.contexts * model.kept, model.dim, device)
    published = peers.authors()
    spectrum = timed(lambda: published.calculate_anisotropy_torch(moments), device)()
    linearity = timed(lambda: published.procrustes_similarity(moments, following), device)()
    layer = spectrum.plus(linearity).plus(peers.authors_loop(cloud, scale.authors_points))
    return passed.times(len(loaded.ids) / len(some)).plus(layer.times(model.layers + 1))


def _kept(batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Every hidden state of every layer, as such scripts collect them."""
    return [torch.cat([state.flatten(0, 1) for state in layer]) for layer in zip(*batches, strict=True)]
