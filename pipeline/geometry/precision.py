"""Numerical precision: rounding units, dtype of matrix products, and matrix products without TF32."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

UNIT_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Largest relative error of rounding to the dtype."""

MAX_FLOAT64_SLOWDOWN = 4.0
"""Float64 products are used if they take at most this many times as long as float32 products. Devices have a ratio of
about 1 to 2, or of 32 and more."""


def product_dtype(device: torch.device | str) -> torch.dtype:
    """Return the dtype for the matrix product of a block: float64 if it is fast on the device, else float32.

    The products of blocks are always added in float64. On a GPU, both dtypes are timed once per process; `MomentStream`
    does so before its first batch.
    """
    device = torch.device(device)
    if device.type != "cuda" or _slowdown(device) <= MAX_FLOAT64_SLOWDOWN:
        return torch.float64
    return torch.float32


@cache
def _slowdown(device: torch.device) -> float:
    with full_precision():
        return _product_ms(device, torch.float64) / _product_ms(device, torch.float32)


def _product_ms(device: torch.device, dtype: torch.dtype) -> float:
    square = torch.ones(2048, 2048, dtype=dtype, device=device)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.mm(square, square)  # warm-up
    start.record(torch.cuda.current_stream(device))
    for _ in range(4):
        torch.mm(square, square)
    stop.record(torch.cuda.current_stream(device))
    stop.synchronize()
    return start.elapsed_time(stop)


def set_threads(threads: int) -> None:
    """Set the thread count of torch, numpy and FAISS, each of which has its own thread pool."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


@contextmanager
def full_precision() -> Iterator[None]:
    """Run float32 products in float32 on every device (no TF32, no bfloat16), then restore the caller's settings."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def upcast_to_float32(points: Tensor) -> Tensor:
    """Return the points in float32; points in float64 are returned unchanged."""
    return points.to(torch.promote_types(points.dtype, torch.float32))
