"""Builder of LoRA adapters in the format of peft, for any base checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RANK, ALPHA = 2, 6
PREFIX = "base_model.model."


def lora_tensors(shapes: Mapping[str, tuple[int, int]], rank: int = RANK, seed: int = 0) -> dict[str, Tensor]:
    """Return random tensors A and B by the name of each linear module, whose weight is [out, in]."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, (n_out, n_in) in shapes.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(rank, n_in, generator=generator) / 8
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(n_out, rank, generator=generator) / 8
    return tensors


def write(folder: Path, tensors: dict[str, Tensor], suffix: str = "safetensors", **fields: Any) -> Path:
    """Write an adapter folder; `fields` change its config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "owner/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    if suffix == "safetensors":
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    else:
        torch.save(tensors, folder / "adapter_model.bin")
    return folder


def merge_into_files(base: Path, out: Path, changes: Mapping[str, Tensor]) -> Path:
    """Write a checkpoint whose named tensors are those of `base` plus `changes`, summed in float32."""
    out.mkdir(parents=True)
    for path in base.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    stored = load_file(base / "model.safetensors")
    merged = {name: value.float() + changes.get(name, torch.zeros(())) for name, value in stored.items()}
    save_file(merged, out / "model.safetensors", {"format": "pt"})
    return out
