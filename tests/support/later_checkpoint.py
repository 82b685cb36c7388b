"""A later checkpoint of the same history."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Rewrite = Callable[[dict[str, Tensor]], Any]


def later(folder: Path, to: Path, change: Rewrite = lambda tensors: None, seed: int = 1) -> Path:
    """Write a later checkpoint of the same history: other values of every tensor, then `change` applied to them."""
    shutil.copytree(folder, to)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    change(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to
