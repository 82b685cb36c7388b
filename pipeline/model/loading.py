"""Strict loading: class from config.json, explicit dtype, and all weights of the body present and finite."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.catalog.adapters import find_adapter_weights
from pipeline.catalog.checkpoint_files import LocalFolder
from pipeline.errors import CheckpointError
from pipeline.model.adapters import read_adapter
from pipeline.model.file_errors import as_checkpoint_error
from pipeline.model.layer_stack import LayerStack
from pipeline.model.module_building import BuiltModule, build_module, list_few
from pipeline.model.placement import WeightCapacity, distribute_blocks
from pipeline.model.weight_files import WeightTargets, list_readable_weights, read_tensors
from pipeline.spec import ModelKind

HALF_DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Model:
    """Checkpoint loaded into memory, in evaluation mode."""

    module: PreTrainedModel
    """Module, with its head if the weight files contain one."""
    stacks: dict[ModelKind, LayerStack]
    flags: tuple[str, ...]
    """Flags for the rows of the model:

    - `no_lm_head`: the module has no language-model head.
    - `text_stack`: the model has other parts than its text stack.
    - `unexpected_keys`, and `unexpected_keys:NAME` for the first three: files have tensors that the class does not use.
    - `unwrapped_names`, `unwrapped_names:PART`: see `Weights.flags`.
    - `adapter_ignored`: the folder also has an adapter, which is not merged.
    """
    unexpected_keys: tuple[str, ...]
    """Names of tensors in the files that the class does not use."""
    weight_targets: WeightTargets | None = None
    """Module tensor into which each tensor of the files is loaded, for `reload_model`. None if this is unknown, or if
    loading changes values."""

    def stack(self, kind: ModelKind) -> LayerStack:
        """Return the layer stack of a kind; CheckpointError if the model has none. An encoder-decoder has two."""
        if kind not in self.stacks:
            has = ", ".join(self.stacks)
            raise CheckpointError(f"{kind} of {type(self.module).__name__}", f"it has only {has}", f"Ask for {has}")
        return self.stacks[kind]

    @property
    def arch(self) -> str:
        return self.module.config.model_type

    @property
    def n_params(self) -> int:
        """Number of parameters; shared parameters count once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def d_model(self) -> int:
        return self._text_config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self._text_config.vocab_size

    @property
    def dtype(self) -> str:
        return str(self.module.dtype).removeprefix("torch.")

    @property
    def max_positions(self) -> int | None:
        """Maximum context length in tokens; None if the config states none (Mamba)."""
        for module in self.module.modules():
            table = getattr(module, "position_embeddings", None)
            if isinstance(table, nn.Embedding) and table.padding_idx is not None:
                return table.num_embeddings - table.padding_idx - 1  # RoBERTa counts positions from padding_idx + 1
        stated = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
        return next((getattr(self._text_config, name) for name in stated if hasattr(self._text_config, name)), None)

    @property
    def _text_config(self) -> Any:
        """Config of the text part of a multimodal model, otherwise the whole config."""
        config: Any = self.module.config
        return config if hasattr(config, "vocab_size") else config.get_text_config()


def load_model(folder: Path, dtype: str, device: str | WeightCapacity, base: Path | None = None) -> Model:
    """Load a checkpoint in evaluation mode. No code from the checkpoint is run.

    The key-value cache is switched off for the model, and TF32 for the whole process.

    Args:
        folder: folder with config.json and the weights or, with `base`, a LoRA adapter; nothing is downloaded.
        dtype: float32, bfloat16, float16, or auto (float32 up to 1.5B parameters, bfloat16 above).
        device: a torch device, or the bytes that weights may take on each of several devices, of which the first holds
            inputs and outputs.
        base: folder of the model into which the adapter is merged, in float32, before the cast to `dtype`.

    Raises:
        CheckpointError: files are missing or truncated, transformers lacks the class, a tensor of the body is missing,
            has another shape or is not finite, or the blocks cannot be found.
        UsageError: the weights do not fit on the devices.
    """
    built = build_module(base or folder, dtype, read_adapter(folder) if base else None)
    module, kinds = built.module, built.kinds
    check_finite(folder, module, base)
    torch.backends.cudnn.allow_tf32 = False  # torch defaults to True, and Mamba and DeBERTa convolve
    torch.backends.cuda.matmul.allow_tf32 = False
    module = module.eval()
    module.to(device) if isinstance(device, str) else distribute_blocks(module, kinds, device)
    _copy_mapped_weights(module)
    ignored = () if base or find_adapter_weights(LocalFolder(folder)) is None else ("adapter_ignored",)
    found = f"{type(module).__name__} cannot be run on text alone as configured in config.json"
    do = "Fix config.json if it does not describe these weights; otherwise leave this model out"
    with as_checkpoint_error(f"checkpoint {folder}", found, do):
        stacks: dict[ModelKind, LayerStack] = {kind: LayerStack(module, kind) for kind in kinds}
        for stack in stacks.values():
            stack.verify()
    return Model(module, stacks, (*_flags(built), *built.flags, *ignored), built.unexpected_keys)


def _flags(built: BuiltModule) -> tuple[str, ...]:
    module, unexpected = built.module, built.unexpected_keys
    headless = ("no_lm_head",) if module.get_output_embeddings() is None else ()
    text = module.config.get_text_config() is not module.config and not module.config.is_encoder_decoder
    headless += ("text_stack",) if text else ()
    named = ("unexpected_keys", *(f"unexpected_keys:{name}" for name in unexpected[:3])) if unexpected else ()
    return (*headless, *named)


def check_finite(folder: Path, module: nn.Module, base: Path | None = None) -> None:
    """Raise CheckpointError if weights contain NaN or infinity, from the files or from the cast to the dtype."""
    bad = {name: tensor.dtype for name, tensor in module.state_dict().items() if not _finite(tensor)}
    if not bad:
        return
    dtype = next(iter(bad.values()))
    if dtype in HALF_DTYPES and all(map(_finite, _stored_tensors(folder, base))):
        short = str(dtype).removeprefix("torch.")
        found = f"{len(bad)} tensors have finite values beyond {torch.finfo(dtype).max:,.0f}, the largest of {short}"
        do = "Use a recipe with dtype: bfloat16" if dtype == torch.float16 else "Use a recipe with dtype: float32"
        raise CheckpointError(f"checkpoint {folder} in {short}", f"{found}: {list_few(bad)}", do)
    found = f"{len(bad)} tensors with NaN or infinity: {list_few(bad)}"
    raise CheckpointError(f"checkpoint {folder}", found, "Leave this checkpoint out")


def _stored_tensors(folder: Path, base: Path | None) -> Iterator[Tensor]:
    adapter = find_adapter_weights(LocalFolder(folder)) if base else None
    files = [*list_readable_weights(base or folder), *([folder / adapter] if adapter else [])]
    return (tensor for _, tensor in read_tensors(files))


def _copy_mapped_weights(module: nn.Module) -> None:
    """Copy CPU weights out of the memory-mapped files, so that a later write to a file cannot change them."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _finite(tensor: Tensor) -> bool:
    # NaN and infinity appear in the minimum or the maximum, whose computation needs no mask of the tensor's size.
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))
