"""Stand-ins for checkpoints and for the work of a task, so that the machinery is timed and nothing else."""

import json
import time
from pathlib import Path

from pipeline.sweep.task import Outcome, Task

NAP_S = 1.0
CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}


def stub_history(root: Path, n: int) -> Path:
    """A history of `n` checkpoints of a few bytes each, no two alike."""
    for step in range(n):
        folder = root / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "model.safetensors").write_bytes(f"weights {step}".encode())
        (folder / "tokenizer.json").write_text("{}")
    return root


def nothing(task: Task) -> list[Outcome]:
    """The work of a task that has none."""
    return [Outcome(cell_id=cell.id) for cell in task.cells]


def nap(task: Task) -> list[Outcome]:
    """The work of a task that takes a while of one slot and no processor."""
    time.sleep(NAP_S)
    return nothing(task)


def nap_before(task: Task) -> list[Outcome]:
    """Its fetching."""
    time.sleep(NAP_S)
    return []
