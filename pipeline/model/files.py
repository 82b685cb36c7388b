"""Which weight files a checkpoint folder has, and whether each can be opened."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipeline.errors import CheckpointError

FORMATS = ("model.safetensors", "pytorch_model.bin")
"""In order of preference; each whole, or in shards beside an index."""


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json of `folder`."""
    if not (folder / "config.json").exists():
        raise CheckpointError(f"checkpoint {folder}", "no config.json", "Name a folder with config.json and weights")
    return _json(folder / "config.json")


def weight_files(folder: Path) -> list[Path]:
    """The weight files of `folder` in one format, every shard that the index names among them, each one readable.

    Raises:
        CheckpointError: there are none, a shard is absent, or a file cannot be opened (truncated, or a pickle with
            more in it than tensors).
    """
    for name in FORMATS:
        index = folder / f"{name}.index.json"
        if index.exists():
            files = _shards(index)
        elif (folder / name).exists():
            files = [folder / name]
        else:
            continue
        for path in files:
            _open(path)
        return files
    raise CheckpointError(
        f"checkpoint {folder}", f"no weights: neither {' nor '.join(FORMATS)}", "Name a folder with weights"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"file {path}", f"not JSON ({error})", "Fetch it again") from error


def _shards(index: Path) -> list[Path]:
    files = sorted({index.parent / name for name in _json(index)["weight_map"].values()})
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
