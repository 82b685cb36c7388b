"""Placement of one model on several devices: each block on one device, and everything else on the first device.

Blocks are placed in order; each device gets blocks until the next one does not fit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.errors import UsageError
from pipeline.model.blocks import count_layers, find_block_list, find_body, find_hook_points
from pipeline.spec import ModelKind

WeightCapacity = Mapping[str, int]
"""Bytes available for weights, by device. The first device, called home, also holds embeddings, norms, heads and
captured states."""


def distribute_blocks(module: PreTrainedModel, kinds: Sequence[ModelKind], room: WeightCapacity) -> None:
    """Move each block of a model to one of the devices, and everything else to the first one (home).

    Hooks move the inputs of a block to its device during a forward pass, and the output of the last block home.

    Raises:
        UsageError: the weights do not fit on the devices.
    """
    lists = [find_block_list(find_body(module, kind), count_layers(find_body(module, kind), kind)) for kind in kinds]
    blocks = [block for blocks in lists for block in blocks]
    sizes = [_bytes(block) for block in blocks]
    devices = assign_block_devices(type(module).__name__, sizes, _bytes(module) - sum(sizes), room)
    for block, device in zip(blocks, devices, strict=True):
        block.to(device)
    _rest_to(module, blocks, home := next(iter(room)))
    if {*devices} != {home}:
        _connect(module, kinds, lists, home)


def assign_block_devices(name: str, sizes: Sequence[int], rest: int, room: WeightCapacity) -> list[str]:
    """Return the device of each block. Devices are filled in order, so that states change device as rarely as possible.

    Args:
        name: class of the model, for the error message.
        sizes: bytes of each block.
        rest: bytes of the weights outside the blocks, which must fit on the first device.
        room: bytes available for weights, by device.

    Raises:
        UsageError: the devices are too few or too small.
    """
    home, *others = room
    devices, left, planned = iter(others), room[home] - rest, []
    device = home
    for size in sizes:
        while size > left:
            if (device := next(devices, "")) == "":
                raise _too_large(name, sum(sizes) + rest, room)
            left = room[device]
        left -= size
        planned.append(device)
    if rest > room[home]:
        raise _too_large(name, sum(sizes) + rest, room)
    return planned


def _too_large(name: str, n_bytes: int, room: WeightCapacity) -> UsageError:
    have = ", ".join(f"{device} {size / 2**30:.3g}" for device, size in room.items())
    return UsageError(
        f"weights of {name}: {n_bytes / 2**30:.3g} GiB",
        f"they do not fit in whole blocks (GiB for weights: {have})",
        f"Set resources.gpus to more than {len(room)}, use GPUs with more memory, or leave this model out",
    )


def _rest_to(module: nn.Module, blocks: Sequence[nn.Module], device: str) -> None:
    inside = {part for block in blocks for part in block.modules()}
    for part in module.modules():
        if part not in inside:
            part._apply(lambda tensor: tensor.to(device), recurse=False)


def _connect(module: PreTrainedModel, kinds: Sequence[ModelKind], lists: Sequence[nn.ModuleList], home: str) -> None:
    for kind, blocks in zip(kinds, lists, strict=True):
        body = find_body(module, kind)
        for part in {*blocks, *find_hook_points(body, count_layers(body, kind)).exits}:
            part.register_forward_pre_hook(_bring_inputs, with_kwargs=True)
        blocks[-1].register_forward_hook(lambda _, args, output: move_tensors(output, home))


def _bring_inputs(part: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    device = next(part.parameters()).device
    return move_tensors(args, device), move_tensors(kwargs, device)


def move_tensors(value: Any, device: torch.device | str) -> Any:
    """Return `value` with all tensors in it, also inside nested tuples, lists and dicts, moved to the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: move_tensors(inner, device) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(move_tensors(inner, device) for inner in value)
    return value


def _bytes(module: nn.Module) -> int:
    """Return the bytes of the parameters and buffers of a module; tied tensors count once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())
