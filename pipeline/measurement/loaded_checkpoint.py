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
"""Share of the free memory that all cached models of idle processes together may take."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory, ready to be measured."""

    model: Model
    tokenizer: Tokenizer
    device: str
    """Device on which metrics are computed; blocks of a large model may be on other devices."""
    load_s: float
    """Wall seconds that loading took."""
    concurrent_tasks: int = 1
    """Number of tasks that share the device's memory."""
    caching_processes: int = 1
    """Number of processes that may each cache a model on the device."""
    files: FileStates | None = None
    """State of the files from which the model was loaded; None for a model that was not loaded from files."""
    reuse_key: tuple[str, ...] | None = None
    """Checkpoints with equal keys can use the same module and tokenizer one after the other; None = they cannot."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of the model, and `ids_beyond_embedding` if the tokenizer has ids beyond the embedding of the model."""
        beyond = len(self.tokenizer) > self.model.vocab_size
        return (*self.model.flags, *(("ids_beyond_embedding",) if beyond else ()))

    def require_same_files(self) -> None:
        """Raise FilesChangedError if one of the files was written after loading; to be called before each commit."""
        if self.files is not None:
            self.files.require_same()


class ModelCache:
    """Cache of the last loaded checkpoint of a process, for reuse by the next one with an equal `reuse_key`.

    The cache is empty while a task runs, so that a failing task leaves no model behind.
    """

    def __init__(self) -> None:
        self._loaded: LoadedCheckpoint | None = None

    def put(self, loaded: LoadedCheckpoint) -> None:
        """Cache the checkpoint if it has a `reuse_key` and is small compared with free memory.

        Reuse saves time only for small models.
        """
        n_bytes = sum(parameter.nbytes for parameter in loaded.model.module.parameters())
        is_small = n_bytes * loaded.caching_processes <= CACHED_MODELS_MEMORY_SHARE * free_bytes(loaded.device)
        if is_small and loaded.reuse_key is not None:
            self._loaded = loaded

    def take(self, reuse_key: tuple[str, ...] | None) -> LoadedCheckpoint | None:
        """Remove the cached checkpoint and return it if it has this key; otherwise free its memory and return None."""
        loaded, self._loaded = self._loaded, None
        if loaded is None or loaded.reuse_key == reuse_key:
            return loaded
        release_weights(loaded.model)
        return None


def load_checkpoint(
    checkpoint: Checkpoint, recipe: Recipe, resources: Resources, cache: ModelCache | None = None
) -> LoadedCheckpoint:
    """Load the weights and the tokenizer of a checkpoint on the devices and with the threads of this task.

    Args:
        cache: cache whose module and tokenizer are reused if they fit. The weights then still equal those of a fresh
            load bit for bit.

    Raises:
        FilesChangedError: the files changed after planning. This error is also raised if that is why they cannot be
            loaded.
        CheckpointError: the files cannot be loaded.
        UsageError: a GPU is requested, but there is none.
    """
    started = time.perf_counter()
    geometry.set_threads(resources.threads)
    devices = _devices(resources)
    base = Path(checkpoint.base_path) if checkpoint.is_adapter else None  # merged weights are in no file
    reuse_key = None if base else (checkpoint.config_digest, checkpoint.tokenizer_digest, recipe.dtype, *devices)
    cached = cache and cache.take(reuse_key)
    files = FileStates.now(checkpoint)
    try:
        weights = Path(checkpoint.path), recipe.dtype, _weight_placement(devices)
        model = reload_model(cached.model, *weights) if cached else load_model(*weights, base)
        tokenizer = cached.tokenizer if cached else load_tokenizer(Path(checkpoint.tokenizer_path))
    finally:
        require_unchanged(checkpoint)  # after reading, to detect files that were replaced meanwhile
    files.require_same()  # ensures that the checked digests are those of the bytes that were read
    tasks, processes = (1, 1) if resources.gpus else (resources.n_slots, resources.cpus)
    load_s = time.perf_counter() - started
    return LoadedCheckpoint(model, tokenizer, devices[0], load_s, tasks, processes, files, reuse_key)


def _weight_placement(devices: list[str]) -> str | dict[str, int]:
    """Return the device if there is only one, else the bytes that weights may take on each device."""
    if len(devices) == 1:
        return devices[0]
    return dict(zip(devices, weight_budgets([free_bytes(device) for device in devices]), strict=True))


def _devices(resources: Resources) -> list[str]:
    """Return the devices of this task: the CPU if `resources.gpus` is 0, else all visible GPUs.

    In a local run, there are at most `resources.gpus` of them.

    Raises:
        UsageError: GPUs are requested, but there is none.
    """
    if not resources.gpus:
        return ["cpu"]
    if not torch.cuda.is_available():
        do = "Set resources.gpus=0, or run where there is a GPU"
        raise UsageError(f"resources.gpus={resources.gpus}", "no CUDA device", do)
    visible = torch.cuda.device_count()
    used = min(visible, resources.gpus) if resources.address == "local" else visible
    return [f"cuda:{number}" for number in range(used)]
