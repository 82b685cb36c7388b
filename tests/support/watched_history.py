"""Checkpoint folders as training writes them, and stubbed measurements with known values."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pipeline.lake import Lake
from pipeline.spec import Cell, Corpus, Resources, built_in_recipe
from pipeline.watch import AlertRule, WatchConfig
from pipeline.watch import follower as module
from tests.support import stub_checkpoints as stub

CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}


def weights(step: int, dtype: torch.dtype = torch.float32) -> bytes:
    return save({"weight": torch.full((64,), step, dtype=dtype)}, {"format": "pt"})


def write(root: Path, step: int, size: int | None = None) -> Path:
    """Write a checkpoint; with `size`, stop after that many bytes of its weights."""
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(weights(step)[:size])
    if size is None:
        (folder / "tokenizer.json").write_text("{}")
    return folder


class Measured:
    """Stub of `measure_cells`: id_twonn is `dimension(step)`, its standard error 0.1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dimension: Callable[[int], float]) -> None:
        self.steps: list[int] = []
        self.flags: dict[int, list[str]] = {}
        """Extra flags by step."""
        self._dimension = dimension
        monkeypatch.setattr(module, "measure_cells", self)

    def __call__(self, cells: list[Cell], resources: Resources) -> Iterator[tuple[Cell, list[dict[str, Any]]]]:
        for cell in cells:
            step = cell.checkpoint.step or 0
            self.before(step)
            self.steps.append(step)
            known = {"id_twonn": self._dimension(step), "id_twonn_se": 0.1, "loss": 2.5, "loss_se": 0.01}
            extra = self.flags.get(step, [])
            rows = [dict[str, Any](row) for row in stub.rows(cell)]
            yield cell, [row | known | {"flags": [*row["flags"], *extra]} for row in rows]

    def before(self, step: int) -> None:
        """Hook called while a step is being measured; tests replace it."""


def followed(root: Path, *rules: str) -> WatchConfig:
    return WatchConfig(
        folder=root,
        lake=Lake(root / ".shapelake"),
        corpus=Corpus(kind="random-uniform"),
        recipe=built_in_recipe("quick@1"),
        resources=Resources(cpus=1, slots=1),
        rules=tuple(map(AlertRule.parse, rules)),
    )
