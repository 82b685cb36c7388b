"""Strict loading: the class that config.json names, an explicit dtype, every weight of the body present and finite."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else loading a .bin may open a pull request on the Hub

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from pipeline.catalog.architectures import infer_kinds
from pipeline.errors import CheckpointError
from pipeline.model.layer_stack import LayerStack
from pipeline.model.placement import WeightCapacity, distribute_blocks
from pipeline.model.weight_files import WeightTargets, list_readable_weights, read_config
from pipeline.recipe import FLOAT32_MAX_PARAMS
from pipeline.spec import ModelKind

CONFIG_ERRORS = (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError)
"""What transformers raises on a config.json that describes no model."""

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Model:
    """A checkpoint in memory, ready to be measured."""

    module: PreTrainedModel
    """With its head where the file has one."""
    stacks: dict[ModelKind, LayerStack]
    flags: tuple[str, ...]
    """`no_lm_head`; `unexpected_keys`, and `unexpected_keys:NAME` of the first three."""
    unexpected_keys: tuple[str, ...]
    """Tensors of the file that the class has no place for."""
    weight_targets: WeightTargets | None = None
    """Where each tensor of the files went, once that is known and simple."""

    def stack(self, kind: ModelKind) -> LayerStack:
        """One of its profiles: an encoder-decoder has two, any other model one."""
        if kind not in self.stacks:
            raise CheckpointError(
                f"profile {kind} of {type(self.module).__name__}", f"it has {', '.join(self.stacks)}", "Ask for those"
            )
        return self.stacks[kind]

    @property
    def arch(self) -> str:
        return self.module.config.model_type

    @property
    def n_params(self) -> int:
        """Parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def d_model(self) -> int:
        return self.module.config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.module.config.vocab_size

    @property
    def dtype(self) -> str:
        return str(self.module.dtype).removeprefix("torch.")

    @property
    def max_positions(self) -> int | None:
        """Longest context it was made for, in tokens; None where its config states none (Mamba)."""
        for module in self.module.modules():
            table = getattr(module, "position_embeddings", None)
            if isinstance(table, nn.Embedding) and table.padding_idx is not None:
                return table.num_embeddings - table.padding_idx - 1  # RoBERTa counts positions from padding_idx + 1
        stated = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
        return next((getattr(self.module.config, name) for name in stated if hasattr(self.module.config, name)), None)


def load_model(folder: Path, dtype: str, device: str | WeightCapacity) -> Model:
    """Load the checkpoint in `folder`, in evaluation mode, without a cache of keys and values, and without remote code.

    Args:
        folder: with config.json and the weights; nothing is fetched.
        dtype: float32, bfloat16, float16, or auto (float32 up to 1.5B parameters, bfloat16 above).
        device: a torch device, or the room for weights on each of several; the first one takes in and hands out.

    Raises:
        CheckpointError: files absent or truncated, a class that transformers does not have, a tensor of the body
            absent, of another shape or not finite, blocks that cannot be found.
        UsageError: more bytes than there is room for.
    """
    raw = read_config(folder)
    files = list_readable_weights(folder)
    found = _kinds(folder, raw)
    config = _config(folder, raw)
    cls = _class(folder, config)
    module, info = _from_pretrained(folder, cls, config, _dtype(dtype, folder, cls, config), files)
    if _check_keys_head_missing(folder, module, info):
        module = module.base_model  # the file has no head, and transformers made one up
    check_finite(folder, module)
    torch.backends.cudnn.allow_tf32 = False  # torch's default is True, and Mamba and DeBERTa convolve
    torch.backends.cuda.matmul.allow_tf32 = False
    module = module.eval()
    module.to(device) if isinstance(device, str) else distribute_blocks(module, found, device)
    unexpected = tuple(sorted(info["unexpected_keys"]))
    profiles: dict[ModelKind, LayerStack] = {kind: LayerStack(module, kind) for kind in found}
    return Model(module, profiles, _flags(module, unexpected), unexpected)


def _flags(module: PreTrainedModel, unexpected: tuple[str, ...]) -> tuple[str, ...]:
    headless = ("no_lm_head",) if module.get_output_embeddings() is None else ()
    named = ("unexpected_keys", *(f"unexpected_keys:{name}" for name in unexpected[:3])) if unexpected else ()
    return (*headless, *named)


def _from_pretrained(
    folder: Path, cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype, files: list[Path]
) -> tuple[Any, dict[str, Any]]:
    """The module, filled up with random weights where the files lack some, and the report that says where."""
    loaded: Any = cls.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=files[0].suffix == ".safetensors",
        weights_only=True,
        ignore_mismatched_sizes=True,  # reported by name instead
        output_loading_info=True,
    )
    return loaded


def _kinds(folder: Path, raw: dict[str, Any]) -> tuple[ModelKind, ...]:
    found = infer_kinds(raw)
    if not found:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"class {raw.get('architectures')}, model_type {raw.get('model_type')!r}: decoder or encoder is not known",
            "Add the type to pipeline/catalog/architectures.py",
        )
    return found


def _config(folder: Path, raw: dict[str, Any]) -> PretrainedConfig:
    model_type = str(raw.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        found = "which needs code of its own (auto_map)" if "auto_map" in raw else "which transformers does not have"
        raise CheckpointError(
            f"checkpoint {folder}",
            f"model_type {model_type!r}, {found}",
            "Convert it to a class of transformers; code from a checkpoint is never run",
        )
    try:
        config = CONFIG_MAPPING[model_type].from_pretrained(folder, local_files_only=True)
    except CONFIG_ERRORS as error:
        raise CheckpointError(f"checkpoint {folder}", f"bad config.json ({_line(error)})", "Correct it") from error
    config.use_cache = False
    config.transformers_weights = None  # else it names a file in place of the one that was hashed and checked
    return config


def _class(folder: Path, config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that `architectures` names first; without one, the base class of the model type."""
    if not config.architectures:
        return cast(type[PreTrainedModel], MODEL_MAPPING[type(config)])
    name = config.architectures[0]
    cls = getattr(transformers, name, None)
    if cls is None:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"class {name}, which transformers {transformers.__version__} does not have",
            "Correct `architectures` in config.json",
        )
    return cls


def _dtype(name: str, folder: Path, cls: type[PreTrainedModel], config: PretrainedConfig) -> torch.dtype:
    """The dtype of that name; auto asks the number of parameters, with none of them allocated."""
    build: Any = cls  # decorated beyond what pyright follows
    try:
        with torch.device("meta"):
            n_params = sum(parameter.numel() for parameter in build(config).parameters())
    except CONFIG_ERRORS as error:
        raise CheckpointError(
            f"checkpoint {folder}", f"config.json makes no {cls.__name__} ({_line(error)})", "Correct config.json"
        ) from error
    auto = torch.float32 if n_params <= FLOAT32_MAX_PARAMS else torch.bfloat16
    return auto if name == "auto" else getattr(torch, name)


def _check_keys_head_missing(folder: Path, module: PreTrainedModel, info: dict[str, Any]) -> bool:
    """Refuse what the body lacks; return whether the head is lacking instead."""
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
            "Fetch the files again, or correct config.json",
        )
    return bool(head)


def _in_head(module: PreTrainedModel, key: str) -> bool:
    if module.base_model is module:
        return key.startswith("lm_head.")
    return not key.startswith(f"{module.base_model_prefix}.")


def check_finite(folder: Path, module: nn.Module) -> None:
    """Refuse weights with NaN or infinity in them."""
    bad = {name for name, tensor in module.state_dict().items() if not _finite(tensor)}
    if bad:
        raise CheckpointError(
            f"checkpoint {folder}", f"{len(bad)} tensors with NaN or infinity: {_few(bad)}", "Leave this checkpoint out"
        )


def _finite(tensor: Tensor) -> bool:
    """NaN and infinity both reach the extremes, and no mask of the tensor's size is needed."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (" ..." if len(ordered) > 3 else "")
