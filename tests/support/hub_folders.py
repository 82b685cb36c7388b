"""Checkpoints of a few bytes for the fake Hub, and helpers to publish and discover them."""

import json
from pathlib import Path

from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.revisions import History
from pipeline.spec import Hub, Members
from tests.support.fake_hub import FakeHub, Repo

CONFIG = json.dumps({"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "dtype": "float16"}).encode()
TOKENIZER = {"tokenizer.json": b'{"a": 1}', "tokenizer_config.json": b"{}"}
README = {"README.md": b"about", ".gitattributes": b"*.bin lfs"}


def checkpoint(weights: str, tokenizer: bool = True, name: str = "model.safetensors") -> dict[str, bytes | None]:
    """Return the files of a checkpoint; two checkpoints differ only in `weights`."""
    return {"config.json": CONFIG, name: weights.encode(), **README, **(TOKENIZER if tokenizer else {})}


def sharded(*weights: str, absent: int = 0) -> dict[str, bytes | None]:
    """Return a sharded checkpoint without its last `absent` shards; the index depends only on the number of shards."""
    names = [f"model-0000{i + 1}-of-0000{len(weights)}.safetensors" for i in range(len(weights))]
    index = json.dumps({"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}).encode()
    shards = {name: data.encode() for name, data in zip(names, weights, strict=True)}
    uploaded = dict(list(shards.items())[: len(weights) - absent])
    return {"config.json": CONFIG, "model.safetensors.index.json": index, **uploaded, **TOKENIZER, **README}


def pythia(hub: FakeHub, name: str = "EleutherAI/pythia-14m", steps: tuple[int, ...] = (0, 1, 512)) -> Repo:
    """Publish a history on branches whose `main` has the weights of the last step."""
    repo = hub.repo(name)
    for step in steps:
        repo.commit(checkpoint(f"{name} {step}"), branch=f"step{step}")
    repo.commit(checkpoint(f"{name} {steps[-1]}"))
    return repo


def written(folder: Path, files: dict[str, bytes | None]) -> Path:
    """Write the files to a local folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data or b"")
    return folder


def discover_one(source: Hub | Members) -> History:
    (history,) = discover_histories(source)
    return history
