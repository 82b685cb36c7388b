"""Models split over two devices: capacities that force a split, and the states that a pass captures."""

from typing import Any

from torch import Tensor, nn

from pipeline.catalog.architectures import infer_kinds
from pipeline.model import LayerStack, placement
from pipeline.model.blocks import count_layers, find_block_list, find_body
from pipeline.spec import ModelKind


def room_of_two(module: Any, elsewhere: str) -> dict[str, int]:
    """Return capacities: home fits one block (none if there is only one) and the rest; `elsewhere` fits all blocks."""
    sizes = [placement._bytes(block) for block in blocks_of(module)[1]]
    rest = placement._bytes(module) - sum(sizes)
    return {"cpu": rest + (sizes[0] if len(sizes) > 1 else 0), elsewhere: sum(sizes)}


def captured_states(profile: LayerStack, ids: Tensor) -> list[Tensor]:
    """Return every captured state, and the loss if there is one."""
    found: list[Tensor] = []
    loss = profile.forward_and_capture(ids, lambda layer, hidden: found.append(hidden.clone()))
    return found if loss is None else [*found, loss]


def blocks_of(module: Any) -> tuple[list[ModelKind], list[nn.Module]]:
    """Return the kinds of a model and the blocks of all its stacks."""
    found = infer_kinds({"architectures": [type(module).__name__], "model_type": module.config.model_type})
    bodies = [(find_body(module, kind), kind) for kind in found]
    return list(found), [block for body, kind in bodies for block in find_block_list(body, count_layers(body, kind))]
