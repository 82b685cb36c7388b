"""LoRA adapters merged into a model in float32: W + scale * B @ A, as peft merges them, without peft.

A parameter that the adapter changes gets its own memory. If the adapter changes only the embedding, a head tied to the
embedding therefore keeps its values, as in training, unless the adapter sets `ensure_weight_tying`.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline.catalog.adapters import ADAPTER_CONFIG, find_adapter_weights, why_not_mergeable
from pipeline.catalog.checkpoint_files import LocalFolder
from pipeline.errors import CheckpointError
from pipeline.model.file_errors import as_checkpoint_error
from pipeline.model.weight_files import open_weights, read_json_object
from pipeline.model.weight_names import WRAPPER_SEGMENTS

PREFIX = re.compile(r"^(module\.)?base_model\.model\.")
"""Prefix that the wrappers of peft add to tensor names in an adapter."""
LORA_NAME = re.compile(r"(.+)\.(lora_(?:A|B|embedding_A|embedding_B)(?:\.default)?(?:\.weight|\.bias)?)")
SAVED_SEGMENT = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
"""Segment in the name of a whole tensor of the adapter, which replaces a tensor of the model."""


class Adapter(NamedTuple):
    """Content of the files of an adapter, which is not merged yet."""

    folder: Path
    config: dict[str, Any]
    """Content of adapter_config.json."""
    pairs: dict[str, dict[str, Tensor]]
    """LoRA tensors in float32, by the name of the module that they change.

    A module has `A` and `B`, or `embedding_A` and `embedding_B` for an embedding, and `B.bias` if B has a bias.
    """
    replaced: dict[str, Tensor]
    """Whole tensors that replace tensors of the model, by name, such as a head in `modules_to_save`."""

    @property
    def asked(self) -> str:
        return f"adapter {self.folder}"

    def scale(self, module: str, a: Tensor) -> float:
        """Return the factor of B @ A; `rank_pattern` and `alpha_pattern` are matched as in peft."""
        rank = _lookup(self.config.get("rank_pattern"), module, self.config["r"])
        if rank != a.shape[0]:
            raise ValueError(f"the rank of {module} is {rank}, but tensor A has {a.shape[0]} rows")
        alpha = _lookup(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_adapter(folder: Path) -> Adapter:
    """Read the files of the adapter in a folder.

    Raises:
        CheckpointError: the adapter is not a plain LoRA, or its files are damaged.
    """
    name = find_adapter_weights(LocalFolder(folder))
    config = read_json_object(folder / ADAPTER_CONFIG)
    if why := why_not_mergeable(config):
        raise CheckpointError(f"adapter {folder}", why, "Merge it with peft: model.merge_and_unload(), then save")
    assert name, "the plan found the weights of the adapter"
    path = folder / name
    open_weights(path)
    stored = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    with as_checkpoint_error(f"adapter {folder}", "its tensors cannot be read", "Save it again with save_pretrained"):
        return Adapter(folder, config, *_sort_tensors(folder, stored))


def load_with_adapter(
    adapter: Adapter, load: Callable[[torch.dtype], tuple[Any, dict[str, Any]]], dtype: torch.dtype
) -> tuple[Any, dict[str, Any]]:
    """Return the base model in `dtype` with the adapter merged, and the loading report of transformers.

    Args:
        load: function that loads the base model in a given dtype and returns it with the loading report. It is called
            with float32, and once more with `dtype` if that is another dtype.
    """
    module, info = load(torch.float32)
    with torch.no_grad():
        values, unexpected = merge_adapter(adapter, module, module.base_model_prefix)
    if dtype != torch.float32:
        del module  # frees its memory; `values` has all changed parameters
        module, info = load(dtype)
    assign_weights(module, values, tie=adapter.config.get("ensure_weight_tying") is True)
    return module, {**info, "unexpected_keys": {*info["unexpected_keys"], *unexpected}}


def merge_adapter(adapter: Adapter, module: nn.Module, base_prefix: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the parameters that the adapter changes, and the names of its tensors that the base model lacks.

    The first item is a dict of their new values in float32, by name.

    Args:
        module: base model in float32; it is not modified.
        base_prefix: name of the body in the module; an adapter trained on the body alone omits this prefix.

    Raises:
        CheckpointError: a tensor does not fit the base model.
    """
    changed, unexpected, state = dict[str, Tensor](), list[str](), module.state_dict()
    for name, value in adapter.replaced.items():
        if (own := _find(name, state, base_prefix)) is None:
            unexpected.append(name)
        else:
            changed[own] = _fitting(adapter, own, value.float(), state[own])
    found = f"{ADAPTER_CONFIG} does not fit the tensors A and B"
    with as_checkpoint_error(adapter.asked, found, "Save the adapter again with save_pretrained"):
        for name, delta in _deltas(adapter, module, base_prefix):
            old = changed[name] if name in changed else state[name]
            changed[name] = old + _fitting(adapter, name, delta, old)
    return changed, tuple(unexpected)


def assign_weights(module: Any, values: dict[str, Tensor], tie: bool) -> None:
    """Assign `values` to the parameters and buffers of these names, cast to their dtypes.

    Args:
        tie: if True, tie afterwards the parameters that the config of the module ties.
    """
    for name, value in values.items():
        owner, _, last = name.rpartition(".")
        parent, old = module.get_submodule(owner), module.state_dict()[name]
        if last in parent._parameters:
            setattr(parent, last, nn.Parameter(value.to(old.dtype), requires_grad=False))
        else:
            parent._buffers[last] = value.to(old.dtype)
    if tie:
        module.tie_weights()


def _sort_tensors(folder: Path, stored: dict[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    replaced: dict[str, Tensor] = {}
    for name, value in stored.items():
        plain = PREFIX.sub("", WRAPPER_SEGMENTS.sub("", name))
        if match := LORA_NAME.fullmatch(plain):
            part = re.sub(r"lora_(embedding_)?|\.default|\.weight", "", match[2])
            pairs[match[1]][f"embedding_{part}" if "embedding" in match[2] else part] = value.float()
        elif "lora_" in plain or plain == name:
            do = "Merge it with peft: model.merge_and_unload(), then save"
            raise CheckpointError(f"adapter {folder}", f"tensor {name!r} does not belong to a plain LoRA", do)
        else:
            replaced[SAVED_SEGMENT.sub("", plain)] = value
    if not pairs and not replaced:
        raise CheckpointError(f"adapter {folder}", "it has no tensors", "Save it again with save_pretrained")
    return dict(pairs), replaced


def _deltas(adapter: Adapter, module: nn.Module, base_prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (name of a parameter, change to add to it): scale * B @ A for weights, scale * `B.bias` for biases."""
    modules = dict(module.named_modules())
    for path, parts in adapter.pairs.items():
        if (name := _find(path, modules, base_prefix)) is None:
            found = f"its tensors change {path!r}, and the base model has no such module"
            raise CheckpointError(adapter.asked, found, "Set base to the model that the adapter was trained on")
        kind = modules[name]
        if not isinstance(kind, (nn.Linear, Conv1D, nn.Embedding)):
            found = f"it changes {path!r}, a {type(kind).__name__}, and only linear layers and embeddings can be merged"
            raise CheckpointError(adapter.asked, found, "Merge it with peft: model.merge_and_unload(), then save")
        first = "embedding_" if isinstance(kind, nn.Embedding) else ""
        a, b = parts[f"{first}A"], parts[f"{first}B"]
        delta = b @ a * (scale := adapter.scale(path, a))
        yield (
            f"{name}.weight",
            delta if isinstance(kind, nn.Linear) else delta.T,
        )  # Conv1D and Embedding store the transpose
        if "B.bias" in parts:
            yield f"{name}.bias", parts["B.bias"] * scale


def _find(name: str, known: dict[str, Any], base_prefix: str) -> str | None:
    """Return the key of `known` that is `name`, or `name` with the body's prefix added or removed; None if absent."""
    names = (name, f"{base_prefix}.{name}", name.removeprefix(f"{base_prefix}."))
    return next((candidate for candidate in names if candidate in known), None)


def _fitting(adapter: Adapter, name: str, value: Tensor, old: Tensor) -> Tensor:
    if value.shape != old.shape:
        found = f"its change of {name!r} has shape {tuple(value.shape)}, and the base model {tuple(old.shape)}"
        raise CheckpointError(adapter.asked, found, "Set base to the model that the adapter was trained on")
    return value


def _lookup(pattern: Any, module: str, default: Any) -> Any:
    """Return the value in `pattern` of the first key that, as a regular expression, matches the end of a module's name.

    If there is none, return `default`.
    """
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)
