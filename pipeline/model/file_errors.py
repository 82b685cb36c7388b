"""Conversion of errors that transformers, tokenizers and torch raise for invalid files to CheckpointError."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import CheckpointError, ShapelakeError

MACHINE_FAULTS = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
MACHINE_FAULT_TEXT = re.compile("CUDA|cuDNN|CUBLAS|allocate")
"""Text in the messages of those RuntimeErrors that come from the device or an allocator, not from invalid files."""
FIELD_TYPES: dict[str, tuple[type, ...]] = {
    ".*_token": (str, dict),
    "model_max_length": (int, float),
    "additional_special_tokens": (list,),
    "extra_special_tokens": (list, dict),
    "added_tokens_decoder": (dict,),
    "tokenizer_class|(padding|truncation)_side": (str,),
}
"""Valid types of fields of tokenizer files, by a regular expression for the name of the field. Null is always valid."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@contextmanager
def as_checkpoint_error(asked: str, found: str | Callable[[], str], do: str) -> Iterator[None]:
    """Convert errors that invalid files cause in this context to a CheckpointError.

    The reason is `found`, followed by the text of the original error in brackets. Errors of the machine (memory,
    device, file system) and interrupts pass unchanged.

    Args:
        asked: see `ShapelakeError`.
        found: reason, or a function that returns it and is called only after an error.
        do: see `ShapelakeError`.
    """
    try:
        yield
    except BaseException as error:  # a panic of tokenizers is not an Exception
        if not _is_caused_by_files(error):
            raise
        text = " ".join(str(error).partition("Exception raised from")[0].split())[:300]  # torch adds a C++ stack trace
        reason = found if isinstance(found, str) else found()
        raise CheckpointError(asked, f"{reason} ({text or type(error).__name__})", do) from error


def describe_bad_tokenizer_field(folder: Path) -> str:
    """Return the beginning of a message about the first invalid tokenizer file, such as `FILE is not JSON; it `.

    It is an empty text if no file is found invalid.
    """
    for path in (folder / name for name in TOKENIZER_FILES if (folder / name).exists()):
        try:
            content = json.loads(path.read_text())
        except (ValueError, RecursionError):
            return f"{path.name} is not JSON; it "
        if not isinstance(content, dict):
            return f"{path.name} is not a JSON object; it "
        others = (str, dict, list) if path.name == "special_tokens_map.json" else (object,)
        if bad := next((name for name, value in content.items() if not _is_valid(name, value, others)), None):
            return f"{path.name} has an invalid field {bad!r}; it "
    return ""


def _is_caused_by_files(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is None  # an OSError without errno comes from transformers, about an invalid file
    if isinstance(error, (ShapelakeError, *MACHINE_FAULTS)):
        return False
    if isinstance(error, RuntimeError) and MACHINE_FAULT_TEXT.search(str(error)):
        return False
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _is_valid(name: str, value: Any, others: tuple[type, ...]) -> bool:
    """Return True if a field has a valid type; one that is not in FIELD_TYPES may have any of the types `others`."""
    expected = next((types for pattern, types in FIELD_TYPES.items() if re.fullmatch(pattern, name)), others)
    if value is None or expected == (object,):
        return True
    if not isinstance(value, expected) or isinstance(value, bool):
        return False
    if isinstance(value, list):
        return all(map(_is_valid_token, value))
    return not name.endswith("_token") or _is_valid_token(value)


def _is_valid_token(token: Any) -> bool:
    """Return True for a valid added token: text, or an object whose `content` is text and whose flags are booleans."""
    if not isinstance(token, dict):
        return isinstance(token, str)
    flags = [value for name, value in token.items() if name not in ("content", "__type", "id")]
    return isinstance(token.get("content"), str) and all(isinstance(flag, bool) for flag in flags)
