"""How numbers are held and multiplied: rounding units, the dtype of matrix products, and no TF32 anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

UNIT_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Largest relative error of rounding to the dtype."""

GOOD_AT_FLOAT64 = {(7, 0), (8, 0), (9, 0), (10, 0)}
"""CUDA capabilities whose float64 products run at half the float32 rate or better (V100, A100, H100/H200, B200)."""


def product_dtype(device: torch.device | str) -> torch.dtype:
    """float64 where its matrix products are affordable, else float32 (accumulated block by block in float64)."""
    device = torch.device(device)
    if device.type == "cpu" or torch.cuda.get_device_capability(device) in GOOD_AT_FLOAT64:
        return torch.float64
    return torch.float32


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in float32 on every device (no TF32, no bfloat16), whatever the caller's settings."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def stored(points: Tensor) -> Tensor:
    """The same values in float32, or as they are where they are float64: what differences are taken of."""
    return points.to(torch.promote_types(points.dtype, torch.float32))
