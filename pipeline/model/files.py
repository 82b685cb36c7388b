"""Whether the files of a checkpoint folder can be opened, before a model is built from them."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipeline.catalog.files import CONFIG, WEIGHTS, Folder, weight_files
from pipeline.errors import CheckpointError


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json of `folder`."""
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"checkpoint {folder}", "no config.json", "Name a folder with config.json and weights")
    return _json(folder / CONFIG)


def readable_weights(folder: Path) -> list[Path]:
    """The files with tensors that loading reads, all of one format, each one readable.

    Raises:
        CheckpointError: there are none, a shard is absent, or a file cannot be opened (truncated, or a pickle with
            more in it than tensors).
    """
    names = weight_files(Folder(folder))
    if not names:
        raise CheckpointError(
            f"checkpoint {folder}", f"no weights: neither {' nor '.join(WEIGHTS)}", "Name a folder with weights"
        )
    files = [folder / name for name in names]
    if files[0].suffix == ".json":
        files = _shards(files[0], files[1:])
    for path in files:
        _open(path)
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"file {path}", f"not JSON ({error})", "Fetch it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"file {path}", f"a JSON {type(found).__name__}, not an object", "Fetch it again")
    return found


def _shards(index: Path, files: list[Path]) -> list[Path]:
    _json(index)
    if not files:
        raise CheckpointError(f"file {index}", "no shard is named in it", "Fetch it again")
    absent = [path.name for path in files if not path.exists()]
    if absent:
        raise CheckpointError(
            f"checkpoint {index.parent}",
            f"{len(absent)} of {len(files)} shards absent: {absent[0]}",
            "Fetch them again",
        )
    return files


def _open(path: Path) -> None:
    """Read the header, which tells a truncated file; tensors stay on disk."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return
        torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise CheckpointError(
            f"weights {path}", f"cannot be opened ({str(error).splitlines()[0]})", "Fetch the file again"
        ) from error
