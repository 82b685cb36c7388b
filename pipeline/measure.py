"""Measurement of one cell: from weights and text to one row per layer. This file is the Methods section.

1. The corpus is made into contexts, which are sequences of token ids in disjoint groups. In each context, the positions
   to measure are sampled (`pipeline.corpora`).
2. All contexts pass through the model, once unless (4) applies. In every layer, the hidden states at the moment
   positions enter running moments (with and without sink tokens), and those at the kept positions form the point
   cloud; memory does not grow with the corpus.
3. Each layer is described: spectrum metrics are computed from the moments, and intrinsic dimensions from the exact k-NN
   graph of the point cloud. Both have standard errors over the groups of contexts (`pipeline.geometry`).
4. If the moments of all layers together do not fit the device, the layers are measured in several passes over the same
   contexts, after a pass that finds the sink tokens from the norms of all blocks.
5. If the sweep wants similarity records, the same passes keep the hidden states of a few tokens, which are the same
   tokens for all checkpoints. Per layer, the neighbours and the kernel of these tokens are recorded
   (`pipeline.geometry.similarity`).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.corpora import Batch, Contexts, build_contexts, with_compared_tokens
from pipeline.geometry import (
    LayerMoments,
    MomentStream,
    PilotStream,
    PointCloud,
    SinkStream,
    describe_layer,
    plan_passes,
    to_device,
)
from pipeline.measurement.loaded_checkpoint import LoadedCheckpoint
from pipeline.measurement.loss import DelayedLoss, Loss
from pipeline.measurement.memory import free_bytes
from pipeline.measurement.provenance import LakeRow, build_row, cell_columns, cost_columns, text_columns
from pipeline.measurement.sampler import HiddenStateSampler
from pipeline.measurement.similarity import RecordRow, SimilarityRecorder, needed_batches
from pipeline.model import LayerStack
from pipeline.progress import track
from pipeline.similarity.settings import Similarity
from pipeline.spec import Cell, Recipe

CPU_BATCH_TOKENS = 1024
"""Tokens per forward pass on a CPU: fixed, because the last digits of a state depend on the contexts of its batch."""
LAYERS_MEMORY_SHARE = 0.7
"""Fraction of the free memory that moments and point clouds may take. The rest is for one batch and other processes."""


@dataclass(frozen=True)
class CellInputs:
    """Inputs that all passes of a cell share."""

    stack: LayerStack
    text: Contexts
    recipe: Recipe
    loaded: LoadedCheckpoint
    batch_tokens: int
    """Tokens per forward pass."""
    label: str
    """Name of the cell in the progress display."""

    @property
    def widths(self) -> list[int]:
        return [state.width for state in self.stack.state_specs]

    @property
    def device(self) -> str:
        return self.loaded.device

    def compared_clouds(self, layers: Iterable[int]) -> dict[int, PointCloud]:
        """Return by layer an empty point cloud for the tokens of similarity records; {} if no records are wanted."""
        size, dtype = self.text.n_compared, self.loaded.model.module.dtype
        wanted = layers if self.text.compared_positions else ()
        return {layer: PointCloud(size, self.widths[layer], dtype, self.device) for layer in wanted}


@dataclass(frozen=True)
class PassResult:
    """Result of one pass over the corpus; each list has one element per layer of the pass."""

    moments: list[LayerMoments]
    clouds: list[PointCloud]
    compared: list[PointCloud]
    """Hidden states of the tokens of similarity records; an empty list if no records are wanted."""
    forward_s: float


class Measurement(NamedTuple):
    """Results of one cell."""

    rows: list[LakeRow]
    """One row per layer, in the order of the layers."""
    records: list[RecordRow]
    """Rows of the similarity records, one per layer; empty if none were wanted."""


def measure(cell: Cell, loaded: LoadedCheckpoint, batch_tokens: int) -> list[LakeRow]:
    """Return the rows of one cell, measured without similarity records; see `measure_cell`."""
    return measure_cell(cell, loaded, batch_tokens).rows


def measure_cell(
    cell: Cell, loaded: LoadedCheckpoint, batch_tokens: int, similarity: Similarity | None = None
) -> Measurement:
    """Measure one cell.

    Args:
        batch_tokens: tokens per forward pass on a GPU; on a CPU, CPU_BATCH_TOKENS is used instead.
        similarity: size of the similarity records; None = no records. Records change no value of the rows.

    Raises:
        CorpusError: the corpus has too little text for the recipe, or contexts are longer than the model can read.
    """
    started = time.perf_counter()
    inputs = prepare_inputs(cell, loaded, batch_tokens, similarity)
    model, recipe, stack, text = loaded.model, cell.recipe, inputs.stack, inputs.text
    loss = Loss(stack, recipe, loaded.tokenizer.mask_id, text.n_error_groups)
    recorder = similarity and SimilarityRecorder(similarity, text, cell, stack.state_specs)
    pass_layers = assign_layers_to_passes(inputs)
    forward_s, described, sinks = 0.0, [], None
    if len(pass_layers) > 1:
        sinks, forward_s = find_sinks(inputs)
    for number, layers in enumerate(pass_layers):
        result = run_pass(inputs, layers, None if number else loss, sinks)
        forward_s += result.forward_s
        parts = zip(result.moments, result.clouds, map(stack.read_by_next_block, layers), strict=True)
        described += [describe_layer(m, c, recipe, r) for m, c, r in track(parts, cell.name, len(layers), "layers")]
        if recorder:
            for layer, states, moments in zip(layers, result.compared, result.moments, strict=True):
                recorder.add(layer, states, moments.pilot_norm)
        del result  # frees its memory before the next pass
    about = cell_columns(cell, model, stack) | text_columns(text) | loss.columns()
    total_s = time.perf_counter() - started
    cost = cost_columns(loaded.device, inputs.batch_tokens, loaded.load_s, forward_s, total_s)
    flags = (*loaded.flags, *stack.flags, *text.flags, *loss.flags)
    rows = [build_row(about | cost, s, layer, flags) for s, layer in zip(stack.state_specs, described, strict=True)]
    return Measurement(rows, recorder.rows() if recorder else [])


def record_cell(cell: Cell, loaded: LoadedCheckpoint, batch_tokens: int, similarity: Similarity) -> list[RecordRow]:
    """Return the similarity records of a cell that is measured already; they equal the records of `measure_cell`.

    Only the batches with a token of the records, and the first batches, which set the pilot norms, pass through the
    model, each once.
    """
    inputs = prepare_inputs(cell, loaded, batch_tokens, similarity)
    recorder = SimilarityRecorder(similarity, inputs.text, cell, inputs.stack.state_specs)
    stream = PilotStream(inputs.widths, inputs.text.moment_rows_per_group, inputs.device)
    layers = range(len(inputs.widths))
    compared = inputs.compared_clouds(layers)
    sampler = HiddenStateSampler(stream, layers, {}, inputs.device, compared)
    forward_contexts(inputs, sampler, batches=needed_batches(inputs.text, inputs.batch_tokens, stream))
    for layer, pilot_norm in enumerate(stream.finish()):
        recorder.add(layer, compared[layer], pilot_norm)
    return recorder.rows()


def prepare_inputs(
    cell: Cell, loaded: LoadedCheckpoint, batch_tokens: int, similarity: Similarity | None
) -> CellInputs:
    """Build the contexts and other inputs of a cell; if records are wanted, choose the tokens of the records too."""
    model, recipe = loaded.model, cell.recipe
    batch_tokens = CPU_BATCH_TOKENS if loaded.device == "cpu" else batch_tokens
    text = build_contexts(
        cell.corpus, recipe, loaded.tokenizer, model.vocab_size, model.max_positions, cell.checkpoint.tokenizer_digest
    )
    if similarity:
        text = with_compared_tokens(text, similarity.tokens, recipe.seed)
    return CellInputs(model.stack(cell.kind), text, recipe, loaded, batch_tokens, cell.name)


def assign_layers_to_passes(inputs: CellInputs) -> list[list[int]]:
    """Return the layers of each pass; there is one pass if the moments and clouds of all layers fit on the device."""
    loaded, text = inputs.loaded, inputs.text
    room = int(LAYERS_MEMORY_SHARE * free_bytes(loaded.device) / loaded.concurrent_tasks)
    n_points = text.n_kept + text.n_compared
    return plan_passes(inputs.widths, n_points, text.n_error_groups, loaded.model.module.dtype, room)


def find_sinks(inputs: CellInputs) -> tuple[Bool[Tensor, " rows"], float]:
    """Forward every context once; return (mask of the sink tokens among the moment rows, seconds that this took)."""
    started, every, multiple = time.perf_counter(), range(len(inputs.widths)), inputs.recipe.sink_multiple
    rows, deciding = inputs.text.moment_rows_per_group, decide_sinks(inputs.stack)
    stream = SinkStream(inputs.widths, rows, deciding, multiple, inputs.device)
    forward_contexts(inputs, HiddenStateSampler(stream, every, {}, inputs.device))
    return stream.finish(), time.perf_counter() - started


def run_pass(
    inputs: CellInputs, layers: list[int], loss: Loss | None = None, sinks: Bool[Tensor, " rows"] | None = None
) -> PassResult:
    """Forward every context once; collect the moments and the cloud of each of `layers`, and add to `loss` if given.

    Linearity relates a layer to the next one, so the pass also reads the layer after each of `layers`.

    Args:
        sinks: mask from `find_sinks`; None if the pass reads all layers and finds the sink tokens itself.
    """
    started = time.perf_counter()
    deciding = decide_sinks(inputs.stack)
    device, text, widths, target = inputs.device, inputs.text, inputs.widths, linear_map_targets(inputs.stack)
    watched = sorted({*layers, *(after for layer in layers if (after := target[layer]) is not None)})
    following = [watched.index(after) if (after := target[i]) in watched and i in layers else None for i in watched]
    stream = MomentStream(
        [widths[layer] for layer in watched],
        text.moment_rows_per_group,
        inputs.recipe.sink_multiple,
        following,
        device,
        [deciding[layer] for layer in watched],
        sinks,
    )
    dtype = inputs.loaded.model.module.dtype
    clouds = {layer: PointCloud(text.n_kept, widths[layer], dtype, device) for layer in layers}
    compared = inputs.compared_clouds(layers)
    forward_contexts(inputs, HiddenStateSampler(stream, watched, clouds, device, compared), loss)
    moments, seconds = dict(zip(watched, stream.finish(), strict=True)), time.perf_counter() - started
    return PassResult([moments[i] for i in layers], list(clouds.values()), list(compared.values()), seconds)


def forward_contexts(
    inputs: CellInputs, sampler: HiddenStateSampler, loss: Loss | None = None, batches: Iterable[Batch] | None = None
) -> None:
    """Forward every context, or those of `batches`, in order; pass states to `sampler` and token losses to `loss`."""
    delayed_loss = DelayedLoss(loss)
    batches = inputs.text.iter_batches(inputs.batch_tokens) if batches is None else batches
    for batch in track(batches, inputs.label, len(inputs.text), "contexts", lambda batch: len(batch.ids)):
        ids = to_device(torch.from_numpy(batch.ids), inputs.device)
        sampler.begin_batch(batch)
        token_losses = inputs.stack.forward_and_capture(ids, sampler.add_states)
        sampler.end_batch()
        delayed_loss.add(ids, token_losses, batch)
    delayed_loss.finish()


def decide_sinks(stack: LayerStack) -> list[bool]:
    """Return, per layer, True if a norm in this layer may make a token a sink: True for blocks only."""
    return [state.name == "block" for state in stack.state_specs]


def linear_map_targets(stack: LayerStack) -> list[int | None]:
    """Return, per layer, the number of the layer that a linear map predicts from it, which is the next layer.

    It is None for the last block and for the final norm.
    """
    return [state.layer + 1 if state.layer < stack.n_layers else None for state in stack.state_specs]
