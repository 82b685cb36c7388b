"""Checks and readers of the files of a checkpoint folder, which are used before a model is built from them."""

import json
import pickle
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.catalog.adapters import ADAPTER_CONFIG, describe_adapter
from pipeline.catalog.checkpoint_files import CONFIG_FILE, LocalFolder, describe_missing_weights, list_weight_files
from pipeline.catalog.foreign_formats import describe_foreign_format
from pipeline.errors import CheckpointError
from pipeline.model.file_errors import as_checkpoint_error
from pipeline.model.weight_names import adapter_tensors, find_state_dict, module_names, removed_parts


class WeightTarget(NamedTuple):
    """Shape of one tensor in the weight files, and the module tensor into which it is loaded."""

    shape: torch.Size
    module_tensor: str | None
    """Name of the module tensor; None for a tensor that the class does not use."""


WeightTargets = dict[str, WeightTarget]
"""Target of each tensor of the weight files, by its name in the files."""


class Weights(NamedTuple):
    """Tensors of a checkpoint under the names that its module uses."""

    state_dict: dict[str, Any]
    """Tensors, or slices of safetensors files that are read on first use."""
    flags: tuple[str, ...]
    """Flags `unwrapped_names`, and `unwrapped_names:PART` for each key or name part of a training wrapper that was
    removed; empty if none was."""


READ_ERRORS = (
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, RuntimeError),
    *(LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError),
)
"""Exceptions that the readers raise for a damaged file, including any error inside the unpickler."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed config.json of `folder`; CheckpointError if the file is missing or not a JSON object."""
    if not (folder / CONFIG_FILE).exists():
        files = LocalFolder(folder)
        adapter = describe_adapter(files) if ADAPTER_CONFIG in files.names else None
        found, do = adapter or describe_foreign_format({*files.names, *files.folders}) or ("no weights", "")
        known = f"no config.json, but {found}" if do else "no config.json"
        raise CheckpointError(f"checkpoint {folder}", known, do or "Name a folder with config.json and weights")
    return read_json_object(folder / CONFIG_FILE)


def list_readable_weights(folder: Path) -> list[Path]:
    """Return the weight files that loading reads. They are all of one format, and each has been opened as a check.

    Raises:
        CheckpointError: the folder has no weights, a shard is missing, or a file cannot be opened (truncated, or a
            pickle with other objects than tensors).
    """
    local = LocalFolder(folder)
    names = list_weight_files(local)
    if not names:
        found, do = describe_missing_weights(local)
        raise CheckpointError(f"checkpoint {folder}", f"no weights: {found}", do)
    files = [folder / name for name in names]
    if files[0].suffix == ".json":
        read_json_object(files[0])
        if not files[1:]:
            raise CheckpointError(f"file {files[0]}", "no shard is named in weight_map", "Download it again")
        files = files[1:]
    _require_all(folder, files)
    for path in files:
        open_weights(path)
    return files


def read_tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for every tensor of the files, memory-mapped where possible: bytes are read on first use."""
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)
        else:
            yield from _unpickle(path)[0].items()


def read_weights(folder: Path, files: Iterable[Path], module: PreTrainedModel) -> Weights:
    """Return the tensors of the files under the names that `module` has for them; bytes are read on first use.

    Raises:
        CheckpointError: a file has no tensors, or has tensors of an unmerged adapter.
    """
    stored, nested = dict[str, Any](), set[str]()
    for path in files:
        if path.suffix == ".safetensors":
            file = safe_open(path, framework="pt")
            stored |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        else:
            tensors, key = _unpickle(path)
            stored |= tensors
            nested |= {key} if key else set()
    if adapter := adapter_tensors(stored):
        found = f"{len(adapter)} tensors of an adapter that is not merged: {adapter[0]}"
        raise CheckpointError(f"checkpoint {folder}", found, "Merge it with peft: model.merge_and_unload(), then save")
    with as_checkpoint_error(f"checkpoint {folder}", "names of tensors are ambiguous", "Save the unwrapped model"):
        names = module_names(stored, module.state_dict().keys(), module.base_model_prefix)
    parts = (*sorted(nested), *removed_parts(names))
    flags = ("unwrapped_names", *(f"unwrapped_names:{part}" for part in parts)) if parts else ()
    return Weights({names[name]: value for name, value in stored.items()}, flags)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; CheckpointError if it is not a JSON object."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"file {path}", f"not JSON ({error})", "Download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"file {path}", f"a JSON {type(content).__name__}, not an object", "Download it again")
    return content


def _require_all(folder: Path, files: list[Path]) -> None:
    absent = [path.name for path in files if not path.exists()]
    if absent:
        found = f"{len(absent)} of {len(files)} shards absent: {absent[0]}"
        raise CheckpointError(f"checkpoint {folder}", found, "Download the absent shards")


def open_weights(path: Path) -> None:
    """Check that a weight file can be opened, without reading its tensors.

    Raises:
        CheckpointError: the file is truncated or is not a weight file.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return
        torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except READ_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"weights {path}", f"cannot be opened ({reason})", "Download the file again") from error


def _unpickle(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of a pickle, and the key under which they are nested (see `find_state_dict`).

    No code in the pickle is run.
    """
    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    return find_state_dict(stored, f"weights {path}")
