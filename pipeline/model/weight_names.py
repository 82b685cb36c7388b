"""Names of the tensors in weight files, freed of what training wrappers add."""

import re
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

from pipeline.errors import CheckpointError

WRAPPER_SEGMENTS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_flat_param)\."
)
"""Segments added by torch.compile, FSDP and activation checkpointing, at any depth."""
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "params")
"""Keys under which trainers keep the weights in a file that also has optimizer and counters."""
ADAPTER_SEGMENT = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)\b|\.(ia3_l|oft_r|hada_w\d_\w)\b")
MAX_PREFIX_SEGMENTS = 4


def find_state_dict(stored: Any, where: str) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of an unpickled file, and the key that they are nested under, None if at the top.

    Raises:
        CheckpointError: the file has no tensors, or several dicts of them that may be the weights.
    """
    tensors = _tensors(stored)
    if tensors:
        return tensors, None
    inner = {key: found for key in STATE_DICT_KEYS if (found := _nested(stored, key))}
    if len(inner) == 1:
        key, tensors = next(iter(inner.items()))
        return tensors, key
    top = ", ".join(map(str, list(stored)[:5])) if isinstance(stored, dict) else type(stored).__name__
    found = f"several dicts of tensors: {', '.join(inner)}" if inner else f"no tensors, but {top or 'nothing'}"
    raise CheckpointError(where, found, "Save the state dict of the model alone: torch.save(model.state_dict(), PATH)")


def module_names(names: Collection[str], expected: Collection[str], base_prefix: str) -> dict[str, str]:
    """Return the name in the module of each file name: without the names of wrappers and a common prefix.

    A common prefix (`module.` of DDP, `model.` of a trainer) is removed only if no name fits a module with the
    tensors `expected` as it is, and some do without it.

    Raises:
        ValueError: two names become equal.
    """
    plain = {name: WRAPPER_SEGMENTS.sub("", name) for name in names}
    prefix = _common_prefix(plain.values(), frozenset(expected), base_prefix)
    plain = {name: inner.removeprefix(prefix) for name, inner in plain.items()}
    if len(set(plain.values())) < len(plain):
        raise ValueError("two tensors have equal names without those of their wrappers")
    return plain


def removed_parts(names: dict[str, str]) -> tuple[str, ...]:
    """Return what `module_names` removed, sorted: prefixes, and the wrappers' segments."""
    removed = {segment for name in names for segment in WRAPPER_SEGMENTS.findall(name)}
    for name, inner in names.items():
        removed.add(WRAPPER_SEGMENTS.sub("", name).removesuffix(inner))
    return tuple(sorted(removed - {""}))


def adapter_tensors(names: Iterable[str]) -> list[str]:
    """Return the names of tensors that belong to an adapter which is not merged into the weights."""
    return sorted(name for name in names if ADAPTER_SEGMENT.search(name))


def _common_prefix(names: Iterable[str], expected: frozenset[str], base_prefix: str) -> str:
    names, prefix = list(names), ""
    if any(name.startswith(f"{base_prefix}.") for name in expected):
        expected |= {name.removeprefix(f"{base_prefix}.") for name in expected}  # a file may lack the head
    else:
        expected |= {f"{base_prefix}.{name}" for name in expected}  # a base class takes the file of a model with a head
    for _ in range(MAX_PREFIX_SEGMENTS):
        if any(name.removeprefix(prefix) in expected for name in names):
            return prefix
        segments = {name.removeprefix(prefix).partition(".")[0] for name in names}
        if len(segments) != 1:
            return ""
        prefix += f"{segments.pop()}."
    return ""


def _nested(stored: Any, key: str) -> dict[str, Tensor]:
    return _tensors(stored.get(key)) if isinstance(stored, dict) else {}


def _tensors(value: Any) -> dict[str, Tensor]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, Tensor)}
