"""Removal of the name parts that training wrappers add to tensors in weight files."""

import re
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

from pipeline.errors import CheckpointError

WRAPPER_SEGMENTS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_flat_param)\."
)
"""Name segments added by torch.compile, FSDP and activation checkpointing, at any depth."""
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "params")
"""Keys under which trainers store the weights in a file that also has optimizer state and counters."""
ADAPTER_SEGMENT = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)\b|\.(ia3_l|oft_r|hada_w\d_\w)\b")
MAX_PREFIX_SEGMENTS = 4


def find_state_dict(stored: Any, where: str) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of an unpickled file, and the key of STATE_DICT_KEYS under which they are nested.

    The key is None if the tensors are at the top level.

    Raises:
        CheckpointError: the file has no tensors, or several dicts of tensors that may be the weights.
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
    """Return a dict from the name of each tensor in the files to the name that it should have in the module.

    Wrapper segments are removed. A prefix that all names share (`module.` of DDP, `model.` of a trainer) is also
    removed, but only if no name is in `expected` with the prefix and at least one is without it.

    Args:
        names: names of the tensors in the files.
        expected: names of the tensors of the module.
        base_prefix: name of the body in the module; files may omit this prefix, or have it in addition.

    Raises:
        ValueError: two names become equal when their parts are removed.
    """
    plain = {name: WRAPPER_SEGMENTS.sub("", name) for name in names}
    prefix = _common_prefix(plain.values(), frozenset(expected), base_prefix)
    plain = {name: inner.removeprefix(prefix) for name, inner in plain.items()}
    if len(set(plain.values())) < len(plain):
        raise ValueError("two tensors have equal names without the wrapper segments")
    return plain


def removed_parts(names: dict[str, str]) -> tuple[str, ...]:
    """Return the prefixes and wrapper segments that `module_names` removed, sorted; `names` is its result."""
    removed = {segment for name in names for segment in WRAPPER_SEGMENTS.findall(name)}
    for name, inner in names.items():
        removed.add(WRAPPER_SEGMENTS.sub("", name).removesuffix(inner))
    return tuple(sorted(removed - {""}))


def adapter_tensors(names: Iterable[str]) -> list[str]:
    """Return the names of tensors that belong to an unmerged adapter."""
    return sorted(name for name in names if ADAPTER_SEGMENT.search(name))


def _common_prefix(names: Iterable[str], expected: frozenset[str], base_prefix: str) -> str:
    names, prefix = list(names), ""
    if any(name.startswith(f"{base_prefix}.") for name in expected):
        expected |= {name.removeprefix(f"{base_prefix}.") for name in expected}  # a file may lack the head
    else:
        expected |= {f"{base_prefix}.{name}" for name in expected}  # a file may have a head
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
