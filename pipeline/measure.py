"""One checkpoint, one corpus, one recipe: from weights and text to one row per layer. The Methods section.

The contexts of the corpus pass through the model once. From every layer's hidden states the recipe's moment
positions enter the moments (with sinks and without), and its kept positions make up the point cloud; nothing grows
with the corpus. Then each layer is described: its spectrum from the moments, its dimension from the exact k-NN graph
of the cloud, both with standard errors over disjoint groups of contexts. Where the device cannot hold the moments of
all layers at once, the layers are measured in several such passes over the same contexts.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline import geometry
from pipeline.catalog.digests import require_unchanged
from pipeline.corpora import Batch, Contexts, build_contexts
from pipeline.errors import UsageError
from pipeline.geometry import HostCopy, LayerMoments, MomentStream, PointCloud, describe_layer, plan_passes, to_device
from pipeline.loss import Loss
from pipeline.memory import free_bytes, weight_budgets
from pipeline.model import LayerStack, Model, Tokenizer, load_tokenizer, release_weights, reload_model
from pipeline.provenance import LakeRow, build_row, cell_columns, cost_columns, text_columns
from pipeline.sampler import HiddenStateSampler
from pipeline.spec import Cell, Checkpoint, Recipe, Resources

LAYERS_MEMORY_SHARE = 0.7
"""Share of the free memory that the layers may take; the rest is for one batch, and for others."""
CACHED_MODELS_MEMORY_SHARE = 0.1
"""Share of the free memory that the models of idle processes may take, all together."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint ready to be measured."""

    model: Model
    tokenizer: Tokenizer
    device: str
    """Where the states are brought and the metrics computed; blocks of a large model may be on others."""
    load_s: float
    concurrent_tasks: int = 1
    """That share the device's memory."""
    caching_processes: int = 1
    """That may come to keep a model there."""
    reuse_key: tuple[str, ...] = ()
    """Equal for checkpoints that one module and one tokenizer serve."""


class ModelCache:
    """What a process opened last, for the next checkpoint like it. Empty while a task is at work, so that one that
    fails leaves nothing of what it had in hand."""

    def __init__(self) -> None:
        self._opened: LoadedCheckpoint | None = None

    def put(self, opened: LoadedCheckpoint) -> None:
        """Keep it if it is small beside the free memory; what takes long to build beside loading is small."""
        n_bytes = sum(parameter.nbytes for parameter in opened.model.module.parameters())
        if n_bytes * opened.caching_processes <= CACHED_MODELS_MEMORY_SHARE * free_bytes(opened.device):
            self._opened = opened

    def take(self, like: tuple[str, ...]) -> LoadedCheckpoint | None:
        """It, or nothing where it is of another kind: then its memory is given back."""
        opened, self._opened = self._opened, None
        if opened is None or opened.reuse_key == like:
            return opened
        release_weights(opened.model)
        return None


@dataclass(frozen=True)
class PassResult:
    """What one pass over the corpus leaves behind of the layers that it was for."""

    moments: list[LayerMoments]
    clouds: list[PointCloud]
    forward_s: float


def load_checkpoint(
    checkpoint: Checkpoint, recipe: Recipe, resources: Resources, kept: ModelCache | None = None
) -> LoadedCheckpoint:
    """Load weights and tokenizer strictly, on this task's device and threads.

    Args:
        kept: whose module and tokenizer are used again where they can be; the bytes are those of a fresh load.

    Raises:
        ChangedError: the files are not those that were planned; told also where that is why they cannot be loaded.
        CheckpointError: they cannot be loaded.
        UsageError: a GPU is asked for and there is none.
    """
    started = time.perf_counter()
    geometry.set_threads(resources.threads)
    devices = _devices(resources)
    device = devices[0]
    like = (checkpoint.config_digest, checkpoint.tokenizer_digest, recipe.dtype, *devices)
    before = kept and kept.take(like)
    try:
        model = reload_model(before and before.model, Path(checkpoint.path), recipe.dtype, _weight_placement(devices))
        tokenizer = before.tokenizer if before else load_tokenizer(Path(checkpoint.tokenizer_path))
    finally:
        require_unchanged(checkpoint)  # afterwards, so that files replaced while they were read are noticed too
    tasks, processes = (1, 1) if resources.gpus else (resources.n_slots, resources.cpus)
    return LoadedCheckpoint(model, tokenizer, device, time.perf_counter() - started, tasks, processes, like)


def measure(cell: Cell, opened: LoadedCheckpoint, batch_tokens: int) -> list[LakeRow]:
    """The rows of one cell, one per layer, in layer order.

    Args:
        batch_tokens: tokens per forward pass; changes no number.

    Raises:
        CorpusError: too little text for the recipe, or contexts longer than the model can read.
    """
    started = time.perf_counter()
    model, recipe = opened.model, cell.recipe
    profile = model.stack(cell.kind)
    text = build_contexts(
        cell.corpus, recipe, opened.tokenizer, model.vocab_size, model.max_positions, cell.checkpoint.tokenizer_digest
    )
    loss = Loss(profile, recipe, opened.tokenizer.mask_id, text.n_groups)
    forward_s, described = 0.0, []
    for number, layers in enumerate(assign_layers_to_passes(profile, text, opened)):
        seen = run_pass(profile, text, recipe, opened, batch_tokens, layers, None if number else loss)
        forward_s += seen.forward_s
        described += [describe_layer(m, c, recipe) for m, c in zip(seen.moments, seen.clouds, strict=True)]
        del seen  # or the next pass would have to fit beside this one
    about = cell_columns(cell, model, profile) | text_columns(text) | loss.columns()
    total_s = time.perf_counter() - started
    cost = cost_columns(opened.device, batch_tokens, opened.load_s, forward_s, total_s)
    flags = (*model.flags, *profile.flags, *text.flags, *loss.flags)
    return [
        build_row(about | cost, state, layer, flags)
        for state, layer in zip(profile.state_specs, described, strict=True)
    ]


def assign_layers_to_passes(profile: LayerStack, text: Contexts, opened: LoadedCheckpoint) -> list[list[int]]:
    """Which layers each pass is for: all of them in one, where their moments and clouds fit the device."""
    room = int(LAYERS_MEMORY_SHARE * free_bytes(opened.device) / opened.concurrent_tasks)
    widths = [state.width for state in profile.state_specs]
    return plan_passes(widths, text.n_kept, text.n_groups, opened.model.module.dtype, room)


def run_pass(
    profile: LayerStack,
    text: Contexts,
    recipe: Recipe,
    opened: LoadedCheckpoint,
    batch_tokens: int,
    layers: list[int],
    loss: Loss | None = None,
) -> PassResult:
    """Forward every context once; keep moments and cloud of each of the layers, and count the loss."""
    started = time.perf_counter()
    device, widths, target = opened.device, [state.width for state in profile.state_specs], linear_map_targets(profile)
    watched = sorted({*layers, *(after for layer in layers if (after := target[layer]) is not None)})
    following = [watched.index(after) if (after := target[i]) in watched and i in layers else None for i in watched]
    stream = MomentStream(
        [widths[layer] for layer in watched], text.moment_rows_per_group, recipe.sink_multiple, following, device
    )
    clouds = {layer: PointCloud(text.n_kept, widths[layer], opened.model.module.dtype, device) for layer in layers}
    sampler, counting = HiddenStateSampler(stream, watched, clouds, device), _DelayedLoss(loss)
    for batch in text.iter_batches(batch_tokens):
        ids = to_device(torch.from_numpy(batch.ids), device)
        sampler.begin_batch(batch)
        causal = profile.forward_and_capture(ids, sampler.add_states)
        sampler.end_batch()
        counting.add(ids, causal, batch)
    counting.finish()
    moments = dict(zip(watched, stream.finish(), strict=True))
    return PassResult([moments[i] for i in layers], list(clouds.values()), time.perf_counter() - started)


class _DelayedLoss:
    """Counts the losses of a batch when the next one is under way, so that the device never waits for the host."""

    def __init__(self, loss: Loss | None) -> None:
        self._loss = loss
        self._last: tuple[Tensor, HostCopy | None, Batch] | None = None

    def add(self, ids: Tensor, causal: Tensor | None, batch: Batch) -> None:
        self.finish()
        self._last = ids, None if causal is None else HostCopy(causal), batch

    def finish(self) -> None:
        """Count what has not been counted."""
        if self._last is not None and self._loss is not None:
            ids, causal, batch = self._last
            self._loss.add(ids, None if causal is None else causal.wait(), batch.special_mask, batch.context_group)
        self._last = None


def linear_map_targets(profile: LayerStack) -> list[int | None]:
    """For layers 0..L-1 the layer that their linear map leads to; none for the last block and the final norm."""
    return [state.layer + 1 if state.layer < profile.n_layers else None for state in profile.state_specs]


def _weight_placement(devices: list[str]) -> str | dict[str, int]:
    """The one device; of several, the bytes that weights may take of each."""
    if len(devices) == 1:
        return devices[0]
    return dict(zip(devices, weight_budgets([free_bytes(device) for device in devices]), strict=True))


def _devices(resources: Resources) -> list[str]:
    """Those of this task: all GPUs that it sees, inline and on one machine at most as many as the run may use."""
    if not resources.gpus:
        return ["cpu"]
    if not torch.cuda.is_available():
        raise UsageError(
            f"resources.gpus={resources.gpus}", "no CUDA device", "Set resources.gpus=0, or run where there is a GPU"
        )
    seen = torch.cuda.device_count()
    used = min(seen, resources.gpus) if resources.address == "local" else seen
    return [f"cuda:{number}" for number in range(used)]
