"""How numbers are held and multiplied: rounding units, the dtype of matrix products, and no TF32 anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

UNIT_ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Largest relative error of rounding to the dtype."""

MAX_FLOAT64_SLOWDOWN = 4.0
"""Float64 products may take this many times as long as float32 ones; chips take about 1 or 2, or 32 and more."""


def product_dtype(device: torch.device | str) -> torch.dtype:
    """float64 where its matrix products are affordable, else float32 (accumulated block by block in float64).

    On a GPU both are timed, once per process; a stream does so before its first batch.
    """
    device = torch.device(device)
    if device.type != "cuda" or _slowdown(device) <= MAX_FLOAT64_SLOWDOWN:
        return torch.float64
    return torch.float32


@cache
def _slowdown(device: torch.device) -> float:
    """Seconds of a float64 product over those of a float32 one."""
    with full_precision():
        return _product_ms(device, torch.float64) / _product_ms(device, torch.float32)


def _product_ms(device: torch.device, dtype: torch.dtype) -> float:
    square = torch.ones(2048, 2048, dtype=dtype, device=device)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.mm(square, square)  # the first one sets things up
    start.record(torch.cuda.current_stream(device))
    for _ in range(4):
        torch.mm(square, square)
    stop.record(torch.cuda.current_stream(device))
    stop.synchronize()
    return start.elapsed_time(stop)


def set_threads(threads: int) -> None:
    """Of every library that multiplies matrices here: torch, numpy and FAISS each bring pools of their own."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


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


def upcast_to_float32(points: Tensor) -> Tensor:
    """The same values in float32, or as they are where they are float64: what differences are taken of."""
    return points.to(torch.promote_types(points.dtype, torch.float32))
