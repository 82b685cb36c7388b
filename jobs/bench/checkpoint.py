"""One checkpoint whole, beside a bare forward pass of the same tokens and beside the plain script one would write."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.bench import peers
from jobs.bench.comparison import Comparison, Subject, at_least, at_most, compared, unit_on
from jobs.bench.data import curved, forward_floor
from jobs.bench.decoder import save_decoder
from jobs.bench.scale import Model, Scale
from jobs.bench.timing import Took, interleaved, timed
from pipeline.catalog.local import single
from pipeline.corpora import contexts
from pipeline.measure import Opened, measure, open_checkpoint
from pipeline.spec import Cell, ContextRecipe, Corpus, Resources

BATCH_TOKENS = {"cpu": 256, "cuda": 32_768}
BARE, PLAIN, FLOOR = "bare forward pass", "plain script", "2 x parameters x tokens at the measured matmul rate"


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        save_decoder(Path(folder), scale.model.layers, scale.model.dim, scale.model.vocabulary, scale.model.tokens)
        yield from _of(_loaded(Path(folder), scale.model, device), scale, device)


class _Loaded(NamedTuple):
    cell: Cell
    opened: Opened
    ids: Tensor
    """[contexts, tokens], the very ones that the cell reads."""


def _of(loaded: _Loaded, scale: Scale, device: str) -> Iterator[Comparison]:
    model, module = scale.model, loaded.opened.model.module
    tokens, unit = loaded.ids.numel(), unit_on(device)
    contenders = {
        "ours": timed(lambda: measure(loaded.cell, loaded.opened, BATCH_TOKENS[device]), device),
        BARE: timed(lambda: _forward(loaded, loaded.ids), device),
        FLOOR: forward_floor(loaded.opened.model.n_params, tokens, model.dim, module.dtype, device),
    }
    if peers.AUTHORS not in peers.absent():
        contenders[PLAIN] = lambda: _plain(loaded, scale, device)
    took = interleaved(contenders, model.rounds)
    subject = Subject("measure", f"checkpoint of {model.layers} layers, all metrics", tokens, model.dim)
    yield compared(subject, took["ours"], BARE, took[BARE], at_most(scale.on_top), unit)
    if PLAIN in took:
        note = f"from {scale.plain_contexts} contexts, one layer and {scale.authors_points} points of its loop"
        yield compared(subject, took["ours"], PLAIN, took[PLAIN], at_least(12.0), unit, note)
    bare = Subject("measure", BARE, tokens, model.dim)
    wanted = at_most(scale.utilised and 1 / scale.utilised)
    yield compared(bare, took[BARE], FLOOR, took[FLOOR], wanted, unit)


def _loaded(folder: Path, model: Model, device: str) -> _Loaded:
    recipe = ContextRecipe(
        name="bench",
        version=1,
        contexts=model.contexts,
        context_tokens=model.tokens,
        kept_per_context=model.kept,
        moment_tokens=model.moments,
        dtype="bfloat16" if device == "cuda" else "float32",
    )
    checkpoint, corpus = single(folder), Corpus(kind="random-uniform")
    resources = Resources(gpus=int(device == "cuda"), cpus=torch.get_num_threads())
    opened = open_checkpoint(checkpoint, recipe, resources)
    cell = Cell(checkpoint=checkpoint, kind="decoder", corpus=corpus, recipe=recipe)
    of_model = opened.model.vocab_size, opened.model.max_positions
    text = contexts(corpus, recipe, opened.tokenizer, *of_model, checkpoint.tokenizer_digest)
    return _Loaded(cell, opened, torch.from_numpy(np.stack(text.ids)).long().to(device))


def _forward(loaded: _Loaded, ids: Tensor, output_hidden_states: bool = False) -> list[tuple[Tensor, ...]]:
    """The model over the contexts, logits and all; of each batch the hidden states where they are asked for."""
    batch = max(BATCH_TOKENS[ids.device.type] // ids.shape[1], 1)
    with torch.inference_mode():
        passes = (
            loaded.opened.model.module(input_ids=part, output_hidden_states=output_hidden_states)
            for part in ids.split(batch)
        )
        return [output.hidden_states or () for output in passes]


def _plain(loaded: _Loaded, scale: Scale, device: str) -> Took:
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
