"""Which checkpoints of a folder are complete: nothing that is still being written is measured."""

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.catalog.checkpoint_files import LocalFolder, has_tokenizer, list_weight_files, unloadable_reason
from pipeline.catalog.revision_names import TrainingPoint, parse_name

MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors format allows."""
REQUESTS_FOLDER = ".shapelake-requests"
"""Folder in which training names checkpoints that it has finished writing, as empty files."""

FolderSignature = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of every file."""


class CheckpointFolder(NamedTuple):
    """A sub-folder whose name states a step."""

    path: Path
    training_point: TrainingPoint
    signature: FolderSignature


def list_checkpoint_folders(root: Path) -> list[CheckpointFolder]:
    """Every sub-folder that states a step, in training order; one that vanishes meanwhile is left out."""
    named = [(path, place) for path in root.iterdir() if (place := parse_name(path.name)) and place.step is not None]
    seen = [CheckpointFolder(*one, mark) for one in named if (mark := _signature(one[0])) is not None]
    return sorted(seen, key=lambda one: (one.training_point.sort_key, one.path.name))


def why_incomplete(folder: Path, own_tokenizer: bool = True) -> str | None:
    """Why a checkpoint cannot be complete yet, by its names, index and headers; null where it can be."""
    try:
        files = LocalFolder(folder)
        if why := unloadable_reason(files):
            return why
        if own_tokenizer and not has_tokenizer(files):
            return "no tokenizer"
        wrong = [
            name for name in list_weight_files(files) if name.endswith(".safetensors") and not _is_whole(folder / name)
        ]
    except FileNotFoundError:
        return "gone"
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return f"{wrong[0]} is not whole" if wrong else None


def read_requests(root: Path) -> dict[str, int]:
    """Names of the checkpoints that training says it has finished, and when it said so, in nanoseconds."""
    named = _signature(root / REQUESTS_FOLDER) or ()
    return {name: at for name, _, at in named}


def is_request_current(request_ns: int, signature: FolderSignature) -> bool:
    """Whether nothing was written after the request: an older one speaks of other files."""
    return all(request_ns >= at for _, _, at in signature)


def drop_request(root: Path, name: str) -> None:
    """Take it away; one that cannot be removed asks for what is settled, and does nothing."""
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
    """Whether a safetensors file has the size that its header promises."""
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
