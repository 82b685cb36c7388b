"""Checkpoints in a training folder, and the test whether a checkpoint is complete or still being written."""

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.catalog.adapters import find_adapter_weights
from pipeline.catalog.checkpoint_files import LocalFolder, has_tokenizer, list_weight_files, unloadable_reason
from pipeline.catalog.revision_names import TrainingPoint, parse_name

MAX_HEADER_BYTES = 100_000_000
"""Largest header of the safetensors format in bytes; a file with a longer one is taken as incomplete."""
REQUESTS_FOLDER = ".shapelake-requests"
"""Folder of empty files, each named after a checkpoint that training has finished writing."""

FolderSignature = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and modification time in nanoseconds of every file in a folder, sorted by name."""


class CheckpointFolder(NamedTuple):
    """Sub-folder whose name states a step, with the signature that its files had when it was listed."""

    path: Path
    training_point: TrainingPoint
    signature: FolderSignature


def list_checkpoint_folders(root: Path) -> list[CheckpointFolder]:
    """Return the sub-folders whose names state a step, in training order; one that vanishes meanwhile is left out."""
    named = [(path, point) for path in root.iterdir() if (point := parse_name(path.name)) and point.step is not None]
    found = [CheckpointFolder(*one, mark) for one in named if (mark := _signature(one[0])) is not None]
    return sorted(found, key=lambda checkpoint: (checkpoint.training_point.sort_key, checkpoint.path.name))


def why_incomplete(folder: Path, own_tokenizer: bool = True, has_base: bool = False) -> str | None:
    """Return the reason why a checkpoint is incomplete; None if file names, index and headers show no gap.

    Args:
        own_tokenizer: True if the folder must have tokenizer files.
        has_base: True if a base model is given, so that the folder may hold only an adapter.
    """
    try:
        files = LocalFolder(folder)
        if why := unloadable_reason(files, has_base=has_base):
            return why
        if own_tokenizer and not has_tokenizer(files):
            return "no tokenizer"
        names = list_weight_files(files) or filter(None, (find_adapter_weights(files),))
        wrong = [name for name in names if name.endswith(".safetensors") and not _is_whole(folder / name)]
    except FileNotFoundError:
        return "the folder was removed"
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return f"{wrong[0]} is truncated" if wrong else None


def read_requests(root: Path) -> dict[str, int]:
    """Map the name of each checkpoint that training has reported as finished to the report's time in nanoseconds."""
    files = _signature(root / REQUESTS_FOLDER) or ()
    return {name: at for name, _, at in files}


def is_request_current(request_ns: int, signature: FolderSignature) -> bool:
    """Return True if no file changed after the request. Otherwise the request was for files that have been replaced."""
    return all(request_ns >= at for _, _, at in signature)


def drop_request(root: Path, name: str) -> None:
    """Remove a request. A failure is harmless: a poll ignores requests for checkpoints that are measured already."""
    with suppress(OSError):
        (root / REQUESTS_FOLDER / name).unlink(missing_ok=True)


def _signature(folder: Path) -> FolderSignature | None:
    try:
        files = [(path.name, path.stat()) for path in folder.iterdir() if path.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return ()
    return tuple(sorted((name, state.st_size, state.st_mtime_ns) for name, state in files))


def _is_whole(path: Path) -> bool:
    """Return True if a safetensors file has exactly the size that its header states."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(length) if 0 < length <= MAX_HEADER_BYTES else b""
    try:
        tensors = json.loads(header)
        end = max((one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, LookupError, AttributeError):
        return False
    return path.stat().st_size == 8 + length + end
