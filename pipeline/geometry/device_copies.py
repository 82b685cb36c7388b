"""Asynchronous copies between host and device."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def to_device(tensor: Shaped[Tensor, "..."], device: torch.device | str) -> Shaped[Tensor, "..."]:
    """Return the tensor on the device; a copy from host to GPU is queued, and the call does not wait for it."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopy:
    """Asynchronous copy of a tensor to the host; `wait` waits for this copy, but not for later work on the device."""

    def __init__(self, tensor: Shaped[Tensor, "..."]) -> None:
        self._copy = tensor.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if tensor.is_cuda else None
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Shaped[Tensor, "..."]:
        """Return the host tensor once the copy is complete."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._copy
