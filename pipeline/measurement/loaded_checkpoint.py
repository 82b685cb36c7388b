"""Loaded checkpoints: model and tokenizer on the device of a task, and the cache of the last model of a process."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import geometry
from pipeline.catalog.digests import FileStates, require_unchanged
from pipeline.errors import UsageError
from pipeline.measurement.memory import free_bytes, weight_budgets
from pipeline.model import Model, Tokenizer, load_model, load_tokenizer, release_weights, reload_model
from pipeline.spec import Checkpoint, Recipe, Resources

CACHED_MODELS_MEMORY_SHARE = 0.1
"""Share of the free memory that the cached models of idle processes may take together."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint ready to be measured."""

    model: Model
    tokenizer: Tokenizer
    device: str
    """Device of the metrics; blocks of a large model may be on others."""
    load_s: float
    concurrent_tasks: int = 1
    """Number of tasks that share the device's memory."""
    caching_processes: int = 1
    """Number of processes that may each cache a model on the device."""
    files: FileStates | None = None
    """State of the files from which it was loaded; None for a model that is not from files."""
    reuse_key: tuple[str, ...] | None = None
    """Equal for checkpoints that can share one module and one tokenizer; None for one that shares with none."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of the model, and `ids_beyond_embedding`; contexts with such an id are refused when they are built."""
        beyond = len(self.tokenizer) > self.model.vocab_size
        return (*self.model.flags, *(("ids_beyond_embedding",) if beyond else ()))

    def require_same_files(self) -> None:
        """Raise FilesChangedError if a file was written since loading: call it before each commit."""
        if self.files is not None:
            self.files.require_same()


class ModelCache:
    """The last loaded checkpoint of a process, for the next checkpoint with the same architecture and tokenizer.

    Empty while a task runs, so that a failing task leaves nothing behind.
    """

    def __init__(self) -> None:
        self._loaded: LoadedCheckpoint | None = None

    def put(self, loaded: LoadedCheckpoint) -> None:
        """Cache the model if it is small beside the free memory; only small models build slower than they load."""
        n_bytes = sum(parameter.nbytes for parameter in loaded.model.module.parameters())
        is_small = n_bytes * loaded.caching_processes <= CACHED_MODELS_MEMORY_SHARE * free_bytes(loaded.device)
        if is_small and loaded.reuse_key is not None:
            self._loaded = loaded

    def take(self, reuse_key: tuple[str, ...] | None) -> LoadedCheckpoint | None:
        """Remove and return the cached checkpoint if its key is equal; otherwise free its memory and return None."""
        loaded, self._loaded = self._loaded, None
        if loaded is None or loaded.reuse_key == reuse_key:
            return loaded
        release_weights(loaded.model)
        return None


def load_checkpoint(
    checkpoint: Checkpoint, recipe: Recipe, resources: Resources, cache: ModelCache | None = None
) -> LoadedCheckpoint:
    """Load weights and tokenizer strictly, on this task's device and threads.

    Args:
        cache: its module and tokenizer are reused if they fit; the weights equal those of a fresh load bit for bit.

    Raises:
        FilesChangedError: the files are not the planned ones, also if that is why they cannot be loaded.
        CheckpointError: the files cannot be loaded.
        UsageError: a GPU is requested and there is none.
    """
    started = time.perf_counter()
    geometry.set_threads(resources.threads)
    devices = _devices(resources)
    base = Path(checkpoint.base_path) if checkpoint.is_adapter else None  # its weights are not those of its files
    reuse_key = None if base else (checkpoint.config_digest, checkpoint.tokenizer_digest, recipe.dtype, *devices)
    cached = cache and cache.take(reuse_key)
    files = FileStates.now(checkpoint)
    try:
        weights = Path(checkpoint.path), recipe.dtype, _weight_placement(devices)
        model = reload_model(cached.model, *weights) if cached else load_model(*weights, base)
        tokenizer = cached.tokenizer if cached else load_tokenizer(Path(checkpoint.tokenizer_path))
    finally:
        require_unchanged(checkpoint)  # after reading, to notice files replaced meanwhile
    files.require_same()  # the digests are of the bytes that were read
    tasks, processes = (1, 1) if resources.gpus else (resources.n_slots, resources.cpus)
    load_s = time.perf_counter() - started
    return LoadedCheckpoint(model, tokenizer, devices[0], load_s, tasks, processes, files, reuse_key)


def _weight_placement(devices: list[str]) -> str | dict[str, int]:
    """The single device, or bytes of weights allowed on each of several."""
    if len(devices) == 1:
        return devices[0]
    return dict(zip(devices, weight_budgets([free_bytes(device) for device in devices]), strict=True))


def _devices(resources: Resources) -> list[str]:
    """Devices of this task: all visible GPUs, in a local run at most `resources.gpus`."""
    if not resources.gpus:
        return ["cpu"]
    if not torch.cuda.is_available():
        do = "Set resources.gpus=0, or run where there is a GPU"
        raise UsageError(f"resources.gpus={resources.gpus}", "no CUDA device", do)
    visible = torch.cuda.device_count()
    used = min(visible, resources.gpus) if resources.address == "local" else visible
    return [f"cuda:{number}" for number in range(used)]
