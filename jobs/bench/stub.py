"""Stub checkpoints and stub task functions, so that only the sweep machinery is timed."""

import json
import time
from pathlib import Path

from pipeline.sweep.task import Outcome, Task

NAP_S = 1.0
CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}


def stub_history(root: Path, n: int) -> Path:
    """Write a history of `n` distinct checkpoints of a few bytes each."""
    for step in range(n):
        folder = root / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "model.safetensors").write_bytes(f"weights {step}".encode())
        (folder / "tokenizer.json").write_text("{}")
    return root


def nothing(task: Task) -> list[Outcome]:
    """Task function that does nothing and returns success for every cell."""
    return [Outcome(cell_id=cell.id) for cell in task.cells]


def nap(task: Task) -> list[Outcome]:
    """Task function that occupies a slot for `NAP_S` seconds without using a processor."""
    time.sleep(NAP_S)
    return nothing(task)


def nap_before(task: Task) -> list[Outcome]:
    """Fetch function that takes `NAP_S` seconds and fetches nothing."""
    time.sleep(NAP_S)
    return []
