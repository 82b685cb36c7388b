"""One model over several devices: whole blocks, in order, by their bytes; everything else on the first."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.errors import UsageError
from pipeline.model.blocks import count_layers, find_block_list, find_body, find_hook_points
from pipeline.spec import ModelKind

WeightCapacity = Mapping[str, int]
"""Bytes that weights may take, by device. The first is home: of embeddings, norms, heads, and of what is captured."""


def distribute_blocks(module: PreTrainedModel, kinds: Sequence[ModelKind], room: WeightCapacity) -> None:
    """Move the module to the devices, each block to one; it is given its inputs there, and the last output comes home.

    Raises:
        UsageError: it does not fit.
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
    """The device of each block: each device is filled before the next, so that states cross over seldom.

    Args:
        name: of the model.
        sizes: bytes of each block.
        rest: bytes of what is not in a block.

    Raises:
        UsageError: a device too few, or all too small.
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
        f"no room for them in whole blocks (GiB for weights: {have})",
        "Set resources.gpus to more, or run on GPUs with more memory, or leave this model out",
    )


def _rest_to(module: nn.Module, blocks: Sequence[nn.Module], device: str) -> None:
    """Move what is in no block."""
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
    """Tensors on the device, in whatever tuples, lists and dicts they come; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: move_tensors(inner, device) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(move_tensors(inner, device) for inner in value)
    return value


def _bytes(module: nn.Module) -> int:
    """Of its parameters and buffers, tied ones counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())
