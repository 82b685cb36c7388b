"""Location of a model's blocks, and the forward hooks that capture their hidden states."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.errors import CheckpointError
from pipeline.spec import ModelKind


class HookPoints(NamedTuple):
    """Modules at which the hidden states of a forward pass are captured by hooks."""

    entry: nn.Module
    """Module whose first input is the embedding state."""
    exits: tuple[nn.Module, ...]
    """Modules whose outputs, in the order of a forward pass, are the states of layers 1..L. A module may run several
    times: ALBERT has one module that runs L times."""


def find_body(module: PreTrainedModel, kind: ModelKind) -> nn.Module:
    """Return the module that maps token ids to the last hidden state, the input of the head."""
    base: Any = module.base_model
    if kind == "encdec-encoder":
        return base.get_encoder()
    if kind == "encoder" and module.config.get_text_config() is module.config:
        return base
    body = base.get_decoder()  # OPT: inside the base model
    return body.model if body.get_output_embeddings() is not None else body  # Llama 4: the text part has its own head


def count_layers(body: nn.Module, kind: ModelKind) -> int:
    """Return the number of blocks, L, from the configuration."""
    config: Any = body.config
    return getattr(config, "decoder_layers" if kind.endswith("decoder") else "", config.num_hidden_layers)


def decoder_start_token(module: PreTrainedModel) -> int:
    """Return the first input id of the decoder: decoder_start_token_id of config.json, else its pad_token_id (T5).

    Raises:
        CheckpointError: config.json has neither.
    """
    config: Any = module.config
    start = getattr(config, "decoder_start_token_id", None)
    start = config.pad_token_id if start is None else start
    if start is None:
        raise CheckpointError(
            f"decoder of {type(module).__name__}",
            "neither decoder_start_token_id nor pad_token_id in config.json",
            "Add decoder_start_token_id to config.json",
        )
    return start


def find_block_lists(body: nn.Module, n_layers: int) -> list[nn.ModuleList]:
    """Return the lists of `n_layers` modules in `body`, the outermost first; CheckpointError if there is none."""
    length = getattr(body.config, "num_hidden_groups", n_layers)  # ALBERT has one module per group of layers
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == length]
    if not lists:
        raise blocks_error(body, f"no list of {length} blocks")
    return lists


def find_block_list(body: nn.Module, n_layers: int) -> nn.ModuleList:
    """Return the outermost list of `n_layers` modules in `body`; raises the errors of `find_block_lists`."""
    return find_block_lists(body, n_layers)[0]


def list_hook_points(body: nn.Module, n_layers: int) -> list[HookPoints]:
    """Return candidates for the modules at which states enter and leave the blocks, the most likely first.

    There are several candidates because XLM has no block modules. It has one list per part (attention, norm, ...) of
    all blocks; states enter at the first list and leave at the list of second norms. Raises the errors of
    `find_block_lists`.
    """
    lists = find_block_lists(body, n_layers)
    entry = lists[0][0]
    conv = getattr(getattr(body, "encoder", None), "conv", None)  # DeBERTa-v2 large: part of the first block
    first = HookPoints(entry, tuple(lists[0]) if conv is None else (conv, *lists[0][1:]))
    return [first, *(HookPoints(entry, tuple(blocks)) for blocks in lists[1:])]


def find_hook_points(body: nn.Module, n_layers: int) -> HookPoints:
    """Return the first of `list_hook_points`."""
    return list_hook_points(body, n_layers)[0]


@contextmanager
def record_input_norms(blocks: nn.ModuleList) -> Iterator[list[nn.Module | None]]:
    """Yield a list that a forward pass in this context fills with the input norm of each block, in running order.

    The input norm is the norm that reads the input of the block. The item is None for a block without one (post-norm).
    A norm is a module whose class name contains "norm".
    """
    norms: list[nn.Module | None] = []
    entered: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        norms.append(None)
        entered[:] = [args[0] if args else kwargs["hidden_states"]]

    def take(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if entered and norms[-1] is None and args and args[0] is entered[0]:
            norms[-1] = module

    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in {id(b): b for b in blocks}.values()]
    inside = {id(part): part for block in blocks for part in block.modules() if "norm" in type(part).__name__.lower()}
    hooks += [part.register_forward_hook(take) for part in inside.values()]
    try:
        yield norms
    finally:
        for hook in hooks:
            hook.remove()


def blocks_error(body: nn.Module, found: str) -> CheckpointError:
    return CheckpointError(
        f"hidden states of {type(body).__name__}", found, "Leave this model out, or extend pipeline/model/blocks.py"
    )


@contextmanager
def capture_states(blocks: HookPoints, capture: Callable[[int, Tensor], None], home: torch.device) -> Iterator[None]:
    """Call `capture(layer, state)` for each of the layers 0..L during one forward pass that runs in this context.

    States are moved to the device `home` first. The hooks are removed at the end of the context.
    """
    layers = itertools.count()

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entry.remove()
        capture(next(layers), (args[0] if args else kwargs["hidden_states"]).to(home))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        capture(next(layers), (output if isinstance(output, Tensor) else output[0]).to(home))

    entry = blocks.entry.register_forward_pre_hook(enter, with_kwargs=True)
    exits = [block.register_forward_hook(leave) for block in blocks.exits]
    try:
        yield
    finally:
        for hook in (entry, *exits):
            hook.remove()
