"""Between host and device without waiting for the device."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def to_device(tensor: Shaped[Tensor, "..."], device: torch.device | str) -> Shaped[Tensor, "..."]:
    """The tensor on the device; a copy from the host is queued and not waited for."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopy:
    """A tensor on its way to the host; later work of the device is not waited for."""

    def __init__(self, tensor: Shaped[Tensor, "..."]) -> None:
        self._copy = tensor.to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if tensor.is_cuda else None
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Shaped[Tensor, "..."]:
        """The tensor, when it is there."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._copy
