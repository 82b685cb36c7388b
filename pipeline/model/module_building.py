"""Construction of a transformers module from config.json and the tensors of the weight files."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # otherwise loading a .bin may open a pull request on the Hub

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.errors import CheckpointError
from pipeline.model.adapters import Adapter, load_with_adapter
from pipeline.model.configuration import build_config, check_fields, find_class, read_kinds
from pipeline.model.file_errors import as_checkpoint_error
from pipeline.model.weight_files import Weights, list_readable_weights, read_config, read_weights
from pipeline.recipe import FLOAT32_MAX_PARAMS
from pipeline.spec import ModelKind

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class BuiltModule(NamedTuple):
    """Module on the CPU, with the weights of its files."""

    module: Any
    """PreTrainedModel: with its head if the weight files contain one, else its body."""
    kinds: tuple[ModelKind, ...]
    unexpected_keys: tuple[str, ...]
    """Names of tensors in the files that the class does not use."""
    flags: tuple[str, ...]
    """Flags of the weight files (see `Weights.flags`)."""


def build_module(folder: Path, dtype: str, adapter: Adapter | None = None) -> BuiltModule:
    """Build the module that the files in `folder` describe and, if an adapter is given, merge it into the module.

    Raises:
        CheckpointError: the files or the adapter are invalid, or tensors of the body are missing.
    """
    raw = read_config(folder)
    check_fields(folder, raw)
    files = list_readable_weights(folder)
    kinds = read_kinds(folder, raw)
    config = build_config(folder, raw)
    cls = find_class(folder, config)
    skeleton = _build_on_meta(folder, cls, config)
    weights = read_weights(folder, files, skeleton)

    def load(dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
        found = f"config.json or the weights are invalid for {cls.__name__}"
        with as_checkpoint_error(f"checkpoint {folder}", found, "Compare config.json with the tensors of the weights"):
            return _from_pretrained(cls, config, dtype, weights)

    run_dtype = _dtype(dtype, skeleton)
    module, info = load_with_adapter(adapter, load, run_dtype) if adapter else load(run_dtype)
    if _check_keys_head_missing(folder, module, info):
        module = module.base_model  # drop the randomly initialised head that the files lack
    return BuiltModule(module, kinds, tuple(sorted(info["unexpected_keys"])), weights.flags)


def _from_pretrained(
    cls: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype, weights: Weights
) -> tuple[Any, dict[str, Any]]:
    """Return the module and the loading report of transformers, which names missing and mismatched tensors.

    Tensors that `weights` lacks get random values. Only the tensors in `weights` are read. If transformers got a
    folder instead, it would also apply an adapter in it, or read files that config.json names, some of them only if
    other packages are installed.
    """
    loaded: Any = cls.from_pretrained(
        None,
        config=config,
        dtype=dtype,
        state_dict=weights.state_dict,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # `_check_keys_head_missing` reports them by name
        output_loading_info=True,
    )
    return loaded


def _build_on_meta(folder: Path, cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Build the module without memory for its weights; CheckpointError if config.json is invalid for its class."""
    build: Any = cls  # decorators hide the signature from pyright
    invalid = as_checkpoint_error(
        f"checkpoint {folder}", f"config.json is invalid for {cls.__name__}", "Fix config.json"
    )
    with invalid, torch.device("meta"):
        return build(config)


def _dtype(name: str, skeleton: PreTrainedModel) -> torch.dtype:
    """Return the dtype called `name`; `auto` is float32 up to FLOAT32_MAX_PARAMS parameters, bfloat16 above."""
    n_params = sum(parameter.numel() for parameter in skeleton.parameters())
    auto = torch.float32 if n_params <= FLOAT32_MAX_PARAMS else torch.bfloat16
    return auto if name == "auto" else getattr(torch, name)


def _check_keys_head_missing(folder: Path, module: PreTrainedModel, info: dict[str, Any]) -> bool:
    """Return True if tensors of the head are missing, and False if nothing is missing; poolers are ignored.

    Raises:
        CheckpointError: tensors of the body are missing, or any tensor is empty or has another shape than config.json
            implies.
    """
    empty = [name for name, found, _ in info["mismatched_keys"] if 0 in tuple(found)]
    if empty:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"{len(empty)} tensors are empty, as DeepSpeed ZeRO-3 leaves them: {list_few(empty)}",
            "Convert it: python zero_to_fp32.py . OUT, or train with stage3_gather_16bit_weights_on_model_save",
        )
    wrong = {f"{name} {tuple(found)} instead of {tuple(want)}" for name, found, want in info["mismatched_keys"]}
    missing = {key for key in info["missing_keys"] if not re.search(r"(^|\.)pooler\.", key)}
    head = {key for key in missing if _in_head(module, key)}
    if wrong or missing - head:
        raise CheckpointError(
            f"checkpoint {folder}, class {type(module).__name__}",
            " and ".join(
                f"{len(keys)} tensors {what}: {list_few(keys)}"
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


def list_few(names: Iterable[str]) -> str:
    """Return the first three names in alphabetical order as one text, followed by "..." if there are more."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (" ..." if len(ordered) > 3 else "")
