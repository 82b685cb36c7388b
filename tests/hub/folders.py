"""Checkpoint folders of a few bytes, as a publisher uploads them: what is in a file matters to no listing."""

import json
from pathlib import Path

from tests.hub.fake import FakeHub, Repo

CONFIG = json.dumps({"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "dtype": "float16"}).encode()
TOKENIZER = {"tokenizer.json": b'{"a": 1}', "tokenizer_config.json": b"{}"}
README = {"README.md": b"about", ".gitattributes": b"*.bin lfs"}


def checkpoint(weights: str, tokenizer: bool = True, name: str = "model.safetensors") -> dict[str, bytes | None]:
    """The files of a checkpoint that differs from others by `weights` alone."""
    return {"config.json": CONFIG, name: weights.encode(), **README, **(TOKENIZER if tokenizer else {})}


def sharded(*weights: str, absent: int = 0) -> dict[str, bytes | None]:
    """A checkpoint in as many shards, the last `absent` of which were not uploaded; the index is always the same."""
    names = [f"model-0000{i + 1}-of-0000{len(weights)}.safetensors" for i in range(len(weights))]
    index = json.dumps({"weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}).encode()
    shards = {name: data.encode() for name, data in zip(names, weights, strict=True)}
    there = dict(list(shards.items())[: len(weights) - absent])
    return {"config.json": CONFIG, "model.safetensors.index.json": index, **there, **TOKENIZER, **README}


def pythia(hub: FakeHub, name: str = "EleutherAI/pythia-14m", steps: tuple[int, ...] = (0, 1, 512)) -> Repo:
    """A history on branches, of which `main` is the last step."""
    repo = hub.repo(name)
    for step in steps:
        repo.commit(checkpoint(f"{name} {step}"), branch=f"step{step}")
    repo.commit(checkpoint(f"{name} {steps[-1]}"))
    return repo


def written(folder: Path, files: dict[str, bytes | None]) -> Path:
    """The same files on this machine."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data or b"")
    return folder
