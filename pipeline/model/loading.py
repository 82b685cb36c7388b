"""Strict loading: the class named in config.json, an explicit dtype, all weights of the body present and finite."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # otherwise loading a .bin may open a pull request on the Hub

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.errors import CheckpointError
from pipeline.model.configuration import build_config, check_fields, find_class, read_kinds
from pipeline.model.file_errors import as_checkpoint_error
from pipeline.model.layer_stack import LayerStack
from pipeline.model.placement import WeightCapacity, distribute_blocks
from pipeline.model.weight_files import Weights, WeightTargets, list_readable_weights, read_config, read_weights
from pipeline.recipe import FLOAT32_MAX_PARAMS
from pipeline.spec import ModelKind

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Model:
    """Checkpoint loaded into memory, in evaluation mode."""

    module: PreTrainedModel
    """Module, with its head if the weight files contain one."""
    stacks: dict[ModelKind, LayerStack]
    flags: tuple[str, ...]
    """`no_lm_head`; `unexpected_keys` with `unexpected_keys:NAME` for the first three names."""
    unexpected_keys: tuple[str, ...]
    """Tensors of the files that the class does not use."""
    weight_targets: WeightTargets | None = None
    """Module tensor of each file tensor, for `reload_model`; None if unknown or if loading transformed tensors."""

    def stack(self, kind: ModelKind) -> LayerStack:
        """Return the stack of a kind, one of two for an encoder-decoder; CheckpointError if the model has none."""
        if kind not in self.stacks:
            has = ", ".join(self.stacks)
            raise CheckpointError(f"{kind} of {type(self.module).__name__}", f"it has only {has}", f"Ask for {has}")
        return self.stacks[kind]

    @property
    def arch(self) -> str:
        return self.module.config.model_type

    @property
    def n_params(self) -> int:
        """Number of parameters, shared ones counted once."""
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


def load_model(folder: Path, dtype: str, device: str | WeightCapacity) -> Model:
    """Load a checkpoint in evaluation mode, without key-value cache, remote code and (process-wide) TF32.

    Args:
        folder: contains config.json and the weights; nothing is downloaded.
        dtype: float32, bfloat16, float16, or auto (float32 up to 1.5B parameters, bfloat16 above).
        device: a torch device, or the bytes for weights per device; the first device holds inputs and outputs.

    Raises:
        CheckpointError: files are missing or truncated, transformers lacks the class, a tensor of the body is missing,
            has another shape or is not finite, or the blocks cannot be found.
        UsageError: the weights do not fit on the devices.
    """
    raw = read_config(folder)
    check_fields(folder, raw)
    files = list_readable_weights(folder)
    kinds = read_kinds(folder, raw)
    config = build_config(folder, raw)
    cls = find_class(folder, config)
    skeleton = _build_on_meta(folder, cls, config)
    weights = read_weights(folder, files, skeleton)
    found = f"config.json or the weights are invalid for {cls.__name__}"
    with as_checkpoint_error(f"checkpoint {folder}", found, "Compare config.json with the tensors of the weights"):
        module, info = _from_pretrained(cls, config, _dtype(dtype, skeleton), weights)
    if _check_keys_head_missing(folder, module, info):
        module = module.base_model  # drop the randomly initialised head that the files lack
    check_finite(folder, module)
    torch.backends.cudnn.allow_tf32 = False  # torch defaults to True, and Mamba and DeBERTa convolve
    torch.backends.cuda.matmul.allow_tf32 = False
    module = module.eval()
    module.to(device) if isinstance(device, str) else distribute_blocks(module, kinds, device)
    _copy_mapped_weights(module)
    unexpected = tuple(sorted(info["unexpected_keys"]))
    with as_checkpoint_error(f"checkpoint {folder}", "config.json gives a model that cannot run", "Fix config.json"):
        stacks: dict[ModelKind, LayerStack] = {kind: LayerStack(module, kind) for kind in kinds}
        for stack in stacks.values():
            stack.verify()
    return Model(module, stacks, (*_flags(module, unexpected), *weights.flags), unexpected)


def _flags(module: PreTrainedModel, unexpected: tuple[str, ...]) -> tuple[str, ...]:
    headless = ("no_lm_head",) if module.get_output_embeddings() is None else ()
    text = module.config.get_text_config() is not module.config and not module.config.is_encoder_decoder
    headless += ("text_stack",) if text else ()
    named = ("unexpected_keys", *(f"unexpected_keys:{name}" for name in unexpected[:3])) if unexpected else ()
    return (*headless, *named)


def _from_pretrained(
    cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype, weights: Weights
) -> tuple[Any, dict[str, Any]]:
    """Return the module, with random weights for missing tensors, and the report of missing tensors.

    Only the tensors in `weights` are read: given a folder, transformers would also apply an adapter in it, or read
    files that config.json names, some of them only if other packages are installed.
    """
    loaded: Any = cls.from_pretrained(
        None,
        config=config,
        dtype=dtype,
        state_dict=weights.state_dict,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # reported by name instead
        output_loading_info=True,
    )
    return loaded


def _build_on_meta(folder: Path, cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Build the module without memory for its weights; CheckpointError if config.json is invalid for the class."""
    build: Any = cls  # decorators hide the signature from pyright
    invalid = as_checkpoint_error(
        f"checkpoint {folder}", f"config.json is invalid for {cls.__name__}", "Fix config.json"
    )
    with invalid, torch.device("meta"):
        return build(config)


def _dtype(name: str, skeleton: PreTrainedModel) -> torch.dtype:
    """Return the dtype called `name`; auto decides by the number of parameters."""
    n_params = sum(parameter.numel() for parameter in skeleton.parameters())
    auto = torch.float32 if n_params <= FLOAT32_MAX_PARAMS else torch.bfloat16
    return auto if name == "auto" else getattr(torch, name)


def _check_keys_head_missing(folder: Path, module: PreTrainedModel, info: dict[str, Any]) -> bool:
    """Raise CheckpointError for missing or misshapen tensors of the body; return True if only the head is missing."""
    empty = [name for name, found, _ in info["mismatched_keys"] if 0 in tuple(found)]
    if empty:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"{len(empty)} tensors are empty, as DeepSpeed ZeRO-3 leaves them: {_few(empty)}",
            "Convert it: python zero_to_fp32.py . OUT, or train with stage3_gather_16bit_weights_on_model_save",
        )
    wrong = {f"{name} {tuple(found)} instead of {tuple(want)}" for name, found, want in info["mismatched_keys"]}
    missing = {key for key in info["missing_keys"] if not re.search(r"(^|\.)pooler\.", key)}
    head = {key for key in missing if _in_head(module, key)}
    if wrong or missing - head:
        raise CheckpointError(
            f"checkpoint {folder}, class {type(module).__name__}",
            " and ".join(
                f"{len(keys)} tensors {what}: {_few(keys)}"
                for what, keys in (("absent", missing - head), ("of another shape", wrong))
                if keys
            ),
            "Download the files again, or fix the sizes in config.json",
        )
    return bool(head)


def _in_head(module: PreTrainedModel, key: str) -> bool:
    if module.base_model is module:
        return key.startswith("lm_head.")
    return not key.startswith(f"{module.base_model_prefix}.")


def check_finite(folder: Path, module: nn.Module) -> None:
    """Raise CheckpointError if weights contain NaN or infinity."""
    bad = {name for name, tensor in module.state_dict().items() if not _finite(tensor)}
    if bad:
        raise CheckpointError(
            f"checkpoint {folder}", f"{len(bad)} tensors with NaN or infinity: {_few(bad)}", "Leave this checkpoint out"
        )


def _copy_mapped_weights(module: nn.Module) -> None:
    """Copy weights on the CPU out of the mapped files: a later write to a file would otherwise change them."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _finite(tensor: Tensor) -> bool:
    # NaN and infinity show in the extremes, which needs no mask of the tensor's size.
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (" ..." if len(ordered) > 3 else "")
