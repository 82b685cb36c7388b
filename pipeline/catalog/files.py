"""Which files of a checkpoint folder are read: one list for what is loaded, hashed and checked."""

import json
from pathlib import Path

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which loading tries them; each whole, else in shards beside an index."""
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
"""Any one of them makes a tokenizer."""
TOKENIZER = (*VOCABULARY, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the weight files that loading reads: a whole file, or an index and every shard that it names.

    A shard may be absent, and of an index that cannot be understood there are none: loading says so. Empty where the
    folder has no weights.
    """
    for whole in WEIGHTS:
        if (folder / whole).is_file():
            return (whole,)
        if (folder / (index := f"{whole}.index.json")).is_file():
            return (index, *_shards(folder / index))
    return ()


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that a tokenizer is made from."""
    return _names(folder, TOKENIZER)


def has_tokenizer(folder: Path) -> bool:
    return bool(_names(folder, VOCABULARY))


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(map(str, json.loads(index.read_text())["weight_map"].values())))
    except (ValueError, TypeError, LookupError, AttributeError):
        return []


def _names(folder: Path, patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()}))
