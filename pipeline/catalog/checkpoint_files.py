"""Selection of a checkpoint's files: the same list for loading, download, hashing and verification."""

import json
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from pipeline.hashing import file_sha256
from pipeline.progress import Progress

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weight files in the order in which loading tries them; each is one file or shards beside an index."""
SAFETENSORS_SUFFIXES = (".safetensors", ".safetensors.index.json")
VOCABULARY_PATTERNS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
"""Files with a vocabulary; any one of them is sufficient for a tokenizer."""
TOKENIZER_SETTINGS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class CheckpointFiles(Protocol):
    """The files of one checkpoint by name, in a folder or on the Hub."""

    @property
    def location(self) -> str:
        """Unique location: a folder path, or REPO@COMMIT with a subfolder."""
        ...

    @property
    def names(self) -> Collection[str]: ...

    def read(self, name: str) -> bytes: ...

    def sha256(self, name: str) -> str: ...

    def size(self, name: str) -> int: ...


class LocalFolder:
    """Files of a local folder, listed once; an absent folder has no files.

    Args:
        progress: progress bar advanced by the bytes that are hashed.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self.path, self.progress = path, progress
        self.location = str(path)
        entries = path.iterdir() if path.is_dir() else ()
        self.names = frozenset(entry.name for entry in entries if entry.is_file())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def sha256(self, name: str) -> str:
        return file_sha256(self.path / name, self.progress)

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size


def list_weight_files(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the names of the weight files that loading reads: a whole file, or an index and the shards it lists.

    Listed shards may be absent, and an index that cannot be parsed lists none; loading reports both. Empty without
    weights.
    """
    for whole in WEIGHT_FILES:
        if whole in files.names:
            return (whole,)
        if (index := f"{whole}.index.json") in files.names:
            return (index, *_shards(files.read(index)))
    return ()


def unloadable_reason(files: CheckpointFiles, pickles: bool = True) -> str | None:
    """Return the reason why the files cannot be loaded, judged by their names and the index; None if they can.

    Args:
        pickles: accept .bin weights if there are no safetensors.
    """
    weights = list_weight_files(files)
    absent = [name for name in weights if name not in files.names]
    if not weights:
        return f"neither {' nor '.join(WEIGHT_FILES)}"
    if CONFIG_FILE not in files.names:
        return f"no {CONFIG_FILE}"
    if not pickles and (pickle := next((name for name in weights if not name.endswith(SAFETENSORS_SUFFIXES)), None)):
        return f"{pickle} is a pickle, and the catalogue does not allow pickles for this family"
    if len(weights) == 1 and weights[0] not in WEIGHT_FILES:
        return f"{weights[0]} lists no shards"
    return f"{len(absent)} of {len(weights) - 1} shards absent: {absent[0]}" if absent else None


def list_tokenizer_files(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the names of the tokenizer files."""
    return _matching(files, (*VOCABULARY_PATTERNS, *TOKENIZER_SETTINGS))


def has_tokenizer(files: CheckpointFiles) -> bool:
    return bool(_matching(files, VOCABULARY_PATTERNS))


def _shards(index: bytes) -> list[str]:
    """Return the shard names; empty if any name is a path outside the folder, whose files would not be hashed."""
    try:
        names = sorted(set(map(str, json.loads(index)["weight_map"].values())))
        return [] if any("/" in name or name in ("", ".", "..") for name in names) else names
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return []


def _matching(files: CheckpointFiles, patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(name for name in files.names if any(fnmatchcase(name, pattern) for pattern in patterns)))
