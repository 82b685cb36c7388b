"""Selection of a checkpoint's files: the same list for loading, download, hashing and verification."""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from pipeline.catalog.adapters import (
    ADAPTER_CONFIG,
    describe_adapter,
    find_adapter_weights,
    read_adapter_config,
    why_not_mergeable,
)
from pipeline.catalog.foreign_formats import describe_foreign_format
from pipeline.hashing import file_sha256
from pipeline.progress import Progress

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weight files in the order in which loading tries them. In place of each there may be shards and NAME.index.json."""
SAFETENSORS_SUFFIXES = (".safetensors", ".safetensors.index.json")
MAX_SHARDS, MAX_NAME_BYTES = 10_000, 255
"""Maximum number of shards that is taken from a shard's name, and maximum length of a shard's name in an index."""
SHARD = re.compile(r"(model|pytorch_model)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
VOCABULARY_PATTERNS = (
    *("tokenizer.json", "tokenizer.[0-9]*.json", "vocab.json", "vocab.txt", "*.model", "*.spm", "*.tiktoken"),
    *("tekken.json", "vocab-src.json", "prophetnet.tokenizer"),
)
"""Patterns of the names of files with a vocabulary; one such file is sufficient for a tokenizer."""
TOKENIZER_SETTINGS = (
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "bpe.codes", "dict.txt"),
    *("emoji.json", "entity_vocab.json", "normalizer.json", "target_vocab.json", "vocab-tgt.json"),
    *("byte_maps.json", "word_pronunciation.json", "word_shape.json"),
)
CHARACTER_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer", "MyT5Tokenizer")
"""Tokenizer classes without a vocabulary file: their ids are bytes or characters."""
TOKENIZER_PATTERNS = (*VOCABULARY_PATTERNS, *TOKENIZER_SETTINGS)


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
    """Files of a local folder at one moment: names, sizes and hashes are read once. A missing folder has no files."""

    progress: Progress | None = None
    """Progress bar that advances by the bytes of each hashed file; None = each file has a bar of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.location = path, str(path)
        entries = _scan(self.location)
        self._files = {entry.name: entry for entry in entries if entry.is_file()}
        self.folders = frozenset(entry.name for entry in entries if entry.is_dir())
        self.names = frozenset(self._files)
        self._shas: dict[str, str] = {}

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def sha256(self, name: str) -> str:
        if name not in self._shas:
            self._shas[name] = file_sha256(self._files[name], self.progress)
        return self._shas[name]

    def size(self, name: str) -> int:
        return self._files[name].stat().st_size


def list_weight_files(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the names of the weight files that loading reads: one whole file, or an index and the shards it lists.

    If there is no index, the number of shards is taken from their names. The returned shards may be absent, and an
    index that cannot be parsed lists no shards; loading reports both cases. The tuple is empty if there are no weights.
    """
    for whole in WEIGHT_FILES:
        if whole in files.names:
            return (whole,)
        if (index := f"{whole}.index.json") in files.names:
            return (index, *_shards(files.read(index)))
    return _shards_without_index(frozenset(files.names))


def is_adapter_alone(files: CheckpointFiles) -> bool:
    """Return True if the folder has an adapter but no weights of a whole model."""
    return find_adapter_weights(files) is not None and not list_weight_files(files)


def unloadable_reason(files: CheckpointFiles, pickles: bool = True, has_base: bool = False) -> str | None:
    """Return the reason why the files cannot be loaded; None if no reason is found.

    Only the file names, the index and adapter_config.json are inspected, not the weights.

    Args:
        pickles: accept .bin weights if there are no safetensors.
        has_base: True if the source names a base model, into which an adapter is merged.
    """
    if has_base and is_adapter_alone(files):
        weights = (find_adapter_weights(files) or "",)
        return why_not_mergeable(read_adapter_config(files)) or (None if pickles else _why_no_pickle(weights))
    weights = list_weight_files(files)
    absent = [name for name in weights if name not in files.names]
    if not weights:
        return describe_missing_weights(files)[0]
    if CONFIG_FILE not in files.names:
        return f"no {CONFIG_FILE}"
    if not pickles and (reason := _why_no_pickle(weights)):
        return reason
    if len(weights) == 1 and weights[0].endswith(".json"):
        return f"{weights[0]} lists no shards"
    n_shards = len(weights) - weights[0].endswith(".json")
    return f"{len(absent)} of {n_shards} shards absent: {absent[0]}" if absent else None


def _why_no_pickle(weights: Sequence[str]) -> str | None:
    """Return the reason to refuse the first of these files that is a pickle; None if there is none."""
    pickle = next((name for name in weights if not name.endswith(SAFETENSORS_SUFFIXES)), None)
    return f"{pickle} is a pickle, and the catalogue does not allow pickles for this family" if pickle else None


def describe_missing_weights(files: CheckpointFiles) -> tuple[str, str]:
    """Return the problem of a folder without readable weights, and the next step, such as a conversion command."""
    if ADAPTER_CONFIG in files.names:
        return describe_adapter(files)
    entries = {*files.names, *getattr(files, "folders", ())}
    what = f"neither {' nor '.join(WEIGHT_FILES)}"
    known = describe_foreign_format(entries)
    return (f"{what}, but {known[0]}", known[1]) if known else (what, "Name a folder with weights")


def list_tokenizer_files(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the names of the tokenizer files."""
    return _matching(frozenset(files.names), TOKENIZER_PATTERNS)


def is_tokenizer_file(name: str) -> bool:
    return bool(_matching(frozenset((name,)), TOKENIZER_PATTERNS))


def has_tokenizer(files: CheckpointFiles) -> bool:
    """Return True if the files include a vocabulary, or their config names a tokenizer class that needs none."""
    if _matching(frozenset(files.names), VOCABULARY_PATTERNS):
        return True
    name = "tokenizer_config.json"
    return name in files.names and any(f'"{cls}"'.encode() in files.read(name) for cls in CHARACTER_TOKENIZERS)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        if os.path.isdir(folder):
            raise
        return []


@lru_cache(maxsize=64)
def _shards_without_index(names: frozenset[str]) -> tuple[str, ...]:
    """Return the names of all shards of one set, present and absent ones; empty if no file has a shard's name.

    A set is all shards with the same stem, number of shards and suffix. A complete set is chosen first, safetensors
    before bin; if there is none, the set with the most files is chosen.
    """
    found = sorted(
        ((match, name) for name in names if (match := SHARD.fullmatch(name))), key=lambda pair: pair[0][4], reverse=True
    )
    sets = Counter((match[1], match[3], match[4]) for match, _ in found)
    complete = [key for key, present in sets.items() if present == int(key[1])]
    if not sets:
        return ()
    stem, total, suffix = complete[0] if complete else max(sets, key=lambda key: sets[key])
    count = min(int(total), MAX_SHARDS)
    return tuple(f"{stem}-{number:05d}-of-{total}.{suffix}" for number in range(1, count + 1))


@lru_cache(maxsize=64)
def _shards(index: bytes) -> tuple[str, ...]:
    """Return the shard names that an index lists; empty if the index cannot be parsed, or if any name is a path.

    A path could lead to a file in another folder, and files in other folders are not hashed.
    """
    try:
        names = sorted(set(map(str, json.loads(index)["weight_map"].values())))
        return tuple(names) if all(map(_is_file_name, names)) else ()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return ()


def _is_file_name(name: str) -> bool:
    """Return True if `name` is a plain file name, not a path; raise ValueError if it has an unpaired surrogate."""
    return name not in ("", ".", "..") and not set("/\0") & set(name) and len(name.encode()) <= MAX_NAME_BYTES


@lru_cache(maxsize=256)
def _matching(names: frozenset[str], patterns: tuple[str, ...]) -> tuple[str, ...]:
    # Cached, because the checkpoints of a history have the same file names.
    return tuple(sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)))
