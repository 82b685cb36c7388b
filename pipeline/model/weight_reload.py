"""The next checkpoint of a history in the module of the one before: its weights are put in place, nothing is built."""

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
"""The tensors of a module; tied ones are one under several names."""


def reload_model(before: Model | None, folder: Path, dtype: str, device: str | WeightCapacity) -> Model:
    """`load`, in less time where a model of the same config, dtype and device is no longer needed; the bytes are equal.

    The first two models of a history are built; by the second it is seen where each tensor of the files goes. From
    then on the module is kept and its tensors are overwritten straight from the files, unless those hold other names
    or shapes than before: then the module is built anew, which finds and says what is wrong.

    Args:
        before: lost to the caller, whatever happens.

    Raises:
        CheckpointError: as `load`.
    """
    if before is None:
        return load_model(folder, dtype, device)
    files = list_readable_weights(folder)
    if before.weight_targets is not None and overwrite_weights(before.module, before.weight_targets, files):
        check_finite(folder, before.module)
        return before
    release_weights(before)  # its memory is needed
    model = load_model(folder, dtype, device)
    return replace(model, weight_targets=find_weight_targets(model.module, files))


def release_weights(model: Model) -> None:
    """Give back the memory of its weights, whoever still refers to it."""
    model.module.to_empty(device="meta")


def find_weight_targets(module: PreTrainedModel, files: Sequence[Path]) -> WeightTargets | None:
    """Where in the module the tensors of its own files went, compared value by value.

    None where loading did more than put each in its place: tensors merged or transposed, or not from the files, or
    renamed so that values alone do not tell which is which, or equal by the config and not by the files.
    """
    state, places = module.state_dict(), WeightTargets()
    for name, tensor in read_tensors(files):
        found = _match_by_name(state, name, module.base_model_prefix) or _match_by_value(state, tensor)
        if len({state[known].data_ptr() for known in found}) > 1 or not all(_equal(state[k], tensor) for k in found):
            return None
        places[name] = WeightTarget(tensor.shape, next(iter(found), None))
    filled = {state[place.module_tensor].data_ptr() for place in places.values() if place.module_tensor}
    whole = all(tensor.data_ptr() in filled for tensor in state.values())
    return places if whole and _tied_as_configured(module, state) else None


def overwrite_weights(module: PreTrainedModel, places: WeightTargets, files: Sequence[Path]) -> bool:
    """Put each tensor of the files in its place; False, of a module spoiled, where the files are not alike."""
    state, left, filled = module.state_dict(), dict(places), set[int]()
    for name, tensor in read_tensors(files):
        place = left.pop(name, None)
        if place is None or place.shape != tensor.shape:
            return False
        if place.module_tensor is None:
            continue
        into = state[place.module_tensor]
        if into.data_ptr() not in filled:
            into.copy_(tensor.to(into.device))
            filled.add(into.data_ptr())
        elif not _equal(into, tensor):  # the other name of a tied one; tied no longer
            return False
    return not left


def _match_by_name(state: StateDict, name: str, prefix: str) -> list[str]:
    """The module's tensor of that name: files are written with a head and without."""
    names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return [known for known in names if known in state][:1]


def _match_by_value(state: StateDict, tensor: Tensor) -> list[str]:
    """The module's tensors of that value, for one that was renamed."""
    return [known for known, held in state.items() if held.shape == tensor.shape and _equal(held, tensor)]


def _equal(held: Tensor, tensor: Tensor) -> bool:
    return torch.equal(held, tensor.to(held.device).to(held.dtype))


def _tied_as_configured(module: PreTrainedModel, state: StateDict) -> bool:
    """Whether all pairs are one tensor that the config has as one; files with two different ones untie them."""
    pairs = module.get_expanded_tied_weights_keys(all_submodels=True).items()
    return all(state[one].data_ptr() == state[other].data_ptr() for one, other in pairs if {one, other} <= state.keys())
