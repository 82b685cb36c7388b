"""Test points and hardware floors shared by several groups of rows."""

import numpy as np
import torch
from torch import Tensor

from jobs.bench.timing import Contender, Took, timed

INTRINSIC = 10
SLAB = 2048
"""Number of rows in the matrix products whose rate is measured."""


def curved(n: int, dim: int, device: str = "cpu", seed: int = 0) -> Tensor:
    """Return float32 points [n, dim] on a curved ten-dimensional manifold."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(n, INTRINSIC, generator=generator)
    return torch.tanh(inner @ torch.randn(INTRINSIC, dim, generator=generator) / 3).to(device)


def gemm_floor(points: Tensor) -> Contender:
    """Return a contender that times the product of `points` [N, d] and its transpose: 2 N^2 d float32 operations.

    It times SLAB rows of the product and scales the time up. On the CPU it takes the faster of torch's and numpy's
    libraries, since which one is faster depends on the processor.
    """
    device, slab = points.device.type, points[:SLAB]
    out = torch.empty(len(slab), len(points), device=device)
    products = [timed(lambda: torch.mm(slab, points.T, out=out), device)]
    if device == "cpu":
        products.append(timed(lambda: np.matmul(slab.numpy(), points.numpy().T, out=out.numpy())))
    return lambda: min((product() for product in products), key=_seconds).times(len(points) / len(slab))


def forward_floor(parameters: int, tokens: int, dim: int, dtype: torch.dtype, device: str) -> Contender:
    """Return a contender that gives the time of 2 operations per parameter and token, at a measured rate.

    The rate is that of a matrix product of the model's width and dtype.
    """
    left, right = (
        torch.ones(SLAB, dim, dtype=dtype, device=device),
        torch.ones(dim, 4 * dim, dtype=dtype, device=device),
    )
    repeats = 20
    product = timed(lambda: [left @ right for _ in range(repeats)], device)
    return lambda: product().times(parameters * tokens / (repeats * SLAB * dim * 4 * dim))


def _seconds(took: Took) -> float:
    return took.cpu
