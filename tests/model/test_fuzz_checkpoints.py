"""Mutated files of a checkpoint and of an adapter: loaded, or refused in two lines; never another exception."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.catalog.audit import audit_history
from pipeline.catalog.local_histories import discover_history, inspect_checkpoint
from pipeline.errors import ShapelakeError
from pipeline.model import load_model, load_tokenizer
from pipeline.spec import Local
from tests.support import lora_folders as lora
from tests.support import tiny_checkpoints as tiny

COUNT = int(os.environ.get("SHAPELAKE_FUZZ", "40"))
"""Mutations per kind of file; the slow test makes 2,000 in all."""
SHAPES = {"gpt_neox.layers.1.attention.query_key_value": (96, 32)}
VALUES = (None, True, 0, -1, 2**63, 1e308, "", "x" * 300, "\ud800", [], [None], {}, {"a": {"b": []}}, "\x00", [[1]])
SMALL = (3, 1, 2, "gelu", "bert", "llama", "LORA", False, 0.5, ["GPT2LMHeadModel"], "../../etc/passwd")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded checkpoint with a tokenizer, and an adapter of it."""
    root = tmp_path_factory.mktemp("fuzz")
    tiny.model(0).save_pretrained(root / "step1", max_shard_size="60KB")
    tiny.tokenizer().save_pretrained(root / "step1")
    assert (root / "step1" / "model.safetensors.index.json").exists()
    lora.write(root / "adapter", lora.lora_tensors(SHAPES))
    return root


def mutate_json(content: Any, draw: random.Random) -> Any:
    """Return a copy in which one value, at any depth, is replaced, removed, doubled or renamed."""
    if isinstance(content, dict) and content:
        key = draw.choice(sorted(content))
        inner = dict(content)
        action = draw.randrange(5)
        if action == 0:
            del inner[key]
        elif action == 1:
            inner[key] = draw.choice(VALUES + SMALL)
        elif action == 2:
            inner[key + draw.choice(("x", ".", "/../"))] = inner.pop(key)
        else:
            inner[key] = mutate_json(inner[key], draw)
        return inner
    if isinstance(content, list) and content and draw.random() < 0.7:
        index = draw.randrange(len(content))
        return [*content[:index], mutate_json(content[index], draw), *content[index + draw.randrange(2) :]]
    return draw.choice(VALUES + SMALL)


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    at, action = draw.randrange(max(len(data), 1)), draw.randrange(4)
    if action == 0:
        return data[:at]
    if action == 1:
        return data[:at] + draw.randbytes(draw.randrange(1, 9)) + data[at:]
    return data[:at] + draw.randbytes(draw.randrange(1, 9)) + data[at + 8 :]


def mutate_file(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        length = struct.unpack("<Q", data[:8])[0]
        header, body = data[8 : 8 + length], data[8 + length :]
        if draw.random() < 0.6:
            header = json.dumps(mutate_json(json.loads(header), draw)).encode()
            data = struct.pack("<Q", len(header)) + header + body
        else:
            data = mutate_bytes(data[: 8 + length], draw) + body
    elif draw.random() < 0.8:
        data = json.dumps(mutate_json(json.loads(data), draw)).encode()
    else:
        data = mutate_bytes(data, draw)
    path.unlink()
    path.write_bytes(data)


def read_all(root: Path) -> Iterator[Callable[[], Any]]:
    """Yield all that reads the files, as plan, run and audit do."""
    step, adapter = root / "step1", root / "adapter"
    yield lambda: audit_history(discover_history(Local(local=str(root))))
    yield lambda: load_tokenizer(step)
    yield lambda: load_model(step, "float32", "cpu")
    yield lambda: inspect_checkpoint(adapter, base=inspect_checkpoint(step))
    yield lambda: load_model(adapter, "bfloat16", "cpu", step)


KINDS = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json", "*-00001-of-*")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def run(root: Path, folder: Path, pattern: str, count: int) -> None:
    """Make `count` mutations of one file; all readers raise nothing but errors of two lines."""
    for seed in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(root, folder, copy_function=os.link)  # a mutated file gets an inode of its own
        (path,) = (folder / ("adapter" if pattern in ADAPTER else "step1")).glob(pattern)
        mutate_file(path, random.Random(f"{pattern} {seed}"))
        for call in read_all(folder):
            problem = find_problem(call)
            assert not problem, f"{pattern} with seed {seed}: {problem}"


def find_problem(call: Callable[[], Any]) -> str:
    """Return the exception of a call that is not one of two lines for the user; empty if there is none."""
    try:
        call()
    except ShapelakeError as error:
        return "" if str(error).count("\n") == 1 else str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("pattern", [*KINDS, *ADAPTER])
def test_a_few_mutations(pattern: str, intact: Path, tmp_path: Path) -> None:
    run(intact, tmp_path / "copy", pattern, max(COUNT // 10, 1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pattern", [*KINDS, *ADAPTER])
def test_two_thousand_mutations(pattern: str, intact: Path, tmp_path: Path) -> None:
    run(intact, tmp_path / "copy", pattern, max(COUNT, 2000 // 7 + 1))
