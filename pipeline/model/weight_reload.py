"""Reuse of a module for the next checkpoint of a history: weights are overwritten in place."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.model.loading import Model, check_finite, load_model
from pipeline.model.placement import WeightCapacity
from pipeline.model.weight_files import WeightTarget, WeightTargets, list_readable_weights, read_tensors

StateDict = dict[str, Tensor]
"""Tensors of a module by name; a tied tensor appears under several names."""


def reload_model(before: Model, folder: Path, dtype: str, device: str | WeightCapacity) -> Model:
    """Load a checkpoint with the same config, dtype and device as `before`, as `load_model` does, but faster.

    The weights equal those of `load_model` byte for byte. The first call for a config builds a new module and compares
    it with its files, to find the module tensor into which each tensor of the files is loaded. Later calls overwrite
    the module's tensors directly from the files. If the tensors in the files have other names or shapes than those of
    `before`, the module is built again, which reports any error.

    Args:
        before: model of the previous checkpoint; must not be used afterwards, even on error.
        folder: checkpoint folder; `folder`, `dtype` and `device` are the arguments of `load_model`.

    Raises:
        CheckpointError: for the same reasons as `load_model`.
    """
    files = list_readable_weights(folder)
    if before.weight_targets is not None and overwrite_weights(before.module, before.weight_targets, files):
        check_finite(folder, before.module)
        return before
    release_weights(before)  # frees the memory for the next model
    model = load_model(folder, dtype, device)
    return replace(model, weight_targets=find_weight_targets(model.module, files))


def release_weights(model: Model) -> None:
    """Free the memory of the weights even if references to the model remain."""
    model.module.to_empty(device="meta")


def find_weight_targets(module: PreTrainedModel, files: Sequence[Path]) -> WeightTargets | None:
    """Return the module tensor into which each tensor of the files was loaded, found by name or by equal values.

    The result is None if loading did more than copy tensors. It may have merged or transposed tensors, initialised
    tensors that the files lack, renamed tensors whose values occur several times, or untied tensors that the config
    ties.
    """
    state, targets = module.state_dict(), WeightTargets()
    for name, tensor in read_tensors(files):
        matches = _match_by_name(state, name, module.base_model_prefix) or _match_by_value(state, tensor)
        if len({state[m].data_ptr() for m in matches}) > 1 or not all(_equal(state[m], tensor) for m in matches):
            return None
        targets[name] = WeightTarget(tensor.shape, next(iter(matches), None))
    filled = {state[target.module_tensor].data_ptr() for target in targets.values() if target.module_tensor}
    complete = all(tensor.data_ptr() in filled for tensor in state.values())
    return targets if complete and _tied_as_configured(module, state) else None


def overwrite_weights(module: PreTrainedModel, targets: WeightTargets, files: Sequence[Path]) -> bool:
    """Overwrite the tensors of `module` with those of `files`; return False if the files do not fit `targets`.

    The files fit if their tensors have the names and shapes in `targets`, and if all tensors of one tied module tensor
    have equal values. After False, some tensors of the module are overwritten and others are not.
    """
    state, left, filled = module.state_dict(), dict(targets), set[int]()
    for name, tensor in read_tensors(files):
        target = left.pop(name, None)
        if target is None or target.shape != tensor.shape:
            return False
        if target.module_tensor is None:
            continue
        into = state[target.module_tensor]
        if into.data_ptr() not in filled:
            into.copy_(tensor.to(into.device))
            filled.add(into.data_ptr())
        elif not _equal(into, tensor):  # second name of a tied tensor, with other values
            return False
    return not left


def _match_by_name(state: StateDict, name: str, prefix: str) -> list[str]:
    """Return a list with the name of this tensor in the module, or an empty list if the module has none.

    That name is `name`, or `name` with `prefix` added or removed.
    """
    names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return [candidate for candidate in names if candidate in state][:1]


def _match_by_value(state: StateDict, tensor: Tensor) -> list[str]:
    """Return the names of all module tensors that equal `tensor`, a tensor of the files that was renamed in loading."""
    return [name for name, loaded in state.items() if loaded.shape == tensor.shape and _equal(loaded, tensor)]


def _equal(loaded: Tensor, tensor: Tensor) -> bool:
    return torch.equal(loaded, tensor.to(loaded.device).to(loaded.dtype))


def _tied_as_configured(module: PreTrainedModel, state: StateDict) -> bool:
    """Return True if the tensors of every pair that the config ties share storage.

    They do not if the files have two different tensors for the pair, because loading then unties it.
    """
    pairs = module.get_expanded_tied_weights_keys(all_submodels=True).items()
    return all(state[a].data_ptr() == state[b].data_ptr() for a, b in pairs if {a, b} <= state.keys())
