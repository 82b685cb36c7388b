"""Placement of a model on several devices: planned by bytes, states return home, results are byte-identical."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from pipeline.errors import UsageError
from pipeline.model import LayerStack, load_model, placement
from pipeline.model.placement import assign_block_devices
from tests.support import tiny_models
from tests.support.split_models import blocks_of, captured_states, room_of_two

Saved = Callable[[str], Path]
GIB = 2**30


@pytest.mark.parametrize(
    ("room", "want"),
    [
        ({"a": 8, "b": 8}, ["a"] * 4),
        ({"a": 4, "b": 8}, ["a", "b", "b", "b"]),
        ({"a": 2, "b": 2, "c": 8}, ["b", "c", "c", "c"]),
        ({"a": 3, "b": 3, "c": 3}, ["b", "b", "c", "c"]),
        ({"a": 1, "b": 99}, None),
        ({"a": 2, "b": 1, "c": 1}, None),
    ],
)
def test_blocks_fill_one_device_after_the_other(room: dict[str, int], want: list[str] | None) -> None:
    """Four blocks of 1.5 GiB are placed in order; the 2 GiB outside the blocks must fit on the first device."""
    room = {device: size * GIB for device, size in room.items()}
    sizes = [3 * GIB // 2] * 4
    if want is None:
        with pytest.raises(UsageError, match=r"weights of M: 8 GiB") as caught:
            assign_block_devices("M", sizes, 2 * GIB, room)
        assert str(caught.value).count("\n") == 1
    else:
        assert assign_block_devices("M", sizes, 2 * GIB, room) == want


@pytest.mark.parametrize("name", ["gpt_neox", "bert", "t5"])
def test_a_split_changes_no_byte(name: str, saved: Saved, ids: Tensor) -> None:
    """Hooks move inputs to the blocks and the last output home; here both devices are the CPU."""
    whole = load_model(saved(name), "float32", "cpu")
    split = load_model(saved(name), "float32", room_of_two(whole.module, "cpu:1"))
    hooked = [block for block in blocks_of(split.module)[1] if block._forward_pre_hooks]
    assert len(hooked) == len(blocks_of(split.module)[1])
    for kind, profile in whole.stacks.items():
        ours, theirs = captured_states(split.stack(kind), ids), captured_states(profile, ids)
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


QUICK = ("gpt2", "gpt_neox", "llama")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in tiny_models.CLASSES]
)
def test_every_state_comes_home_and_no_operation_is_of_two_devices(
    name: str, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotations, masks and biases computed once outside the blocks are moved to each block too."""
    module = load_model(saved(name), "float32", "cpu").module
    found, blocks = blocks_of(module)
    with fake_tensors(module, monkeypatch):
        placement.distribute_blocks(module, found, room_of_two(module, "meta"))
        assert blocks[-1].state_dict().popitem()[1].device.type == "meta"
        ids = torch.zeros(2, 7, dtype=torch.long)
        assert {state.device.type for kind in found for state in captured_states(LayerStack(module, kind), ids)} == {
            "cpu"
        }


@pytest.mark.parametrize("brought", ["args", "kwargs"])
def test_guard_what_is_not_brought_is_seen(brought: str, saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test above: a block of LLaMA takes the state as argument and the rotation as keyword argument."""
    bring = placement._bring_inputs

    def half(part: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        moved_args, moved_kwargs = bring(part, args, kwargs)
        return (moved_args, kwargs) if brought == "args" else (args, moved_kwargs)

    monkeypatch.setattr(placement, "_bring_inputs", half)
    module = load_model(saved("llama"), "float32", "cpu").module
    with fake_tensors(module, monkeypatch):
        placement.distribute_blocks(module, ["decoder"], room_of_two(module, "meta"))
        with pytest.raises(RuntimeError, match="devices, "):
            LayerStack(module, "decoder")


@contextmanager
def fake_tensors(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the tensors by fake ones, so that torch refuses operations that mix the CPU and `meta`."""
    monkeypatch.setattr(nn.Module, "_apply", apply_with_new_parameters)
    monkeypatch.setattr(Tensor, "data_ptr", lambda tensor: id(tensor))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        module._apply(mode.from_tensor)
        yield


def apply_with_new_parameters(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Replacement of `nn.Module._apply` that creates new parameters, since fake ones cannot change device."""
    for part in self.modules() if recurse else [self]:
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(fn(parameter.data), requires_grad=False)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = fn(buffer)
    return self
