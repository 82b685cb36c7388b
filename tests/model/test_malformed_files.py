"""Settings files with any value replaced: the checkpoint loads, or is refused in two lines with the file's name."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.model import load_model, load_tokenizer
from pipeline.model.file_errors import as_checkpoint_error
from tests.support import tiny_checkpoints as tiny

VALUES: tuple[Any, ...] = (7, None, ["a"], "word", {"a": 1}, 2**70, -1)
TOKEN = {"content": "[MASK]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
TOKENS = {"pad_token": "[PAD]", "mask_token": TOKEN, "additional_special_tokens": ["[X]"]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tiny.checkpoint(tmp_path / "step0", 0)
    (folder / "special_tokens_map.json").write_text(json.dumps(TOKENS))
    return folder


def load_weights(folder: Path) -> None:
    load_model(folder, "float32", "cpu")


def use_tokenizer(folder: Path) -> None:
    """Load and use the tokenizer as a measurement does; only loading may refuse it."""
    tokenizer = load_tokenizer(folder)
    try:
        tokenizer.encode_with_offsets("a b é")
        tokenizer.encode_with_special_tokens("a b")
        _ = tokenizer.bos_id, tokenizer.mask_id, tokenizer.round_trips, tokenizer.text_token_ids(300)
    except CheckpointError as error:
        raise AssertionError("refused in use") from error


FILES: dict[str, Callable[[Path], None]] = {
    "config.json": load_weights,
    "tokenizer_config.json": use_tokenizer,
    "special_tokens_map.json": use_tokenizer,
}


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value, the whole content first."""
    yield path
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    key, *rest = path
    changed = dict(content) if isinstance(content, dict) else list(content)
    changed[key] = replaced(content[key], tuple(rest), value)
    return changed


def refusal(load: Callable[[Path], None], folder: Path) -> str | None:
    """Return the message of the CheckpointError; None if the checkpoint loads."""
    try:
        load(folder)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
def test_any_value_of_a_settings_file_is_read_or_refused_in_two_lines(checkpoint: Path, name: str) -> None:
    path, load = checkpoint / name, FILES[name]
    content = json.loads(path.read_text())
    load(checkpoint)
    refused = 0
    for place in places(content):
        for value in VALUES:
            path.write_text(json.dumps(replaced(content, place, value)))
            message = refusal(load, checkpoint)
            if message is not None:
                refused += 1
                assert (len(message.splitlines()), name in message) == (2, True), message
                assert load is load_weights or not place or place[0] in message, message
    assert refused > 5


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("tokenizer_config.json", "model_max_length", "word"),
        ("config.json", "architectures", [None]),
        ("config.json", "num_hidden_layers", 2**70),
        ("config.json", "num_hidden_layers", -1),
    ],
)
def test_the_field_is_named(checkpoint: Path, name: str, field: str, value: Any) -> None:
    path = checkpoint / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CheckpointError, match=rf"{name}.*'{field}'"):
        FILES[name](checkpoint)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        KeyboardInterrupt(),
        SystemExit(1),
        OSError(5, "Input/output error"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
    ids=repr,
)
def test_an_error_of_the_machine_is_not_blamed_on_the_files(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, as_checkpoint_error("asked", "found", "do"):
        raise error
    assert caught.value is error


def test_a_panic_of_the_tokenizers_is_blamed_on_the_files() -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(CheckpointError, match="index out of bounds"), as_checkpoint_error("asked", "found", "do"):
        raise panic("index out of bounds")


def test_a_tokenizer_without_text_tokens_has_no_text_ids(checkpoint: Path) -> None:
    assert load_tokenizer(checkpoint).text_token_ids(1).tolist() == []
