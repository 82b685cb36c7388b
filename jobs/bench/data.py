"""Points and floors that several groups of rows share."""

import numpy as np
import torch
from torch import Tensor

from jobs.bench.timing import Contender, Took, timed

INTRINSIC = 10
SLAB = 2048
"""Rows of the products from which a rate is taken."""


def curved(n: int, dim: int, device: str = "cpu", seed: int = 0) -> Tensor:
    """Float32 points on a curved manifold of ten dimensions."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(n, INTRINSIC, generator=generator)
    return torch.tanh(inner @ torch.randn(INTRINSIC, dim, generator=generator) / 3).to(device)


def gemm_floor(points: Tensor) -> Contender:
    """What 2 N^2 d float32 operations take at the rate of a slab of that very product.

    On the CPU at the better rate of torch's library and numpy's: either is the faster one on some processors.
    """
    device, slab = points.device.type, points[:SLAB]
    out = torch.empty(len(slab), len(points), device=device)
    products = [timed(lambda: torch.mm(slab, points.T, out=out), device)]
    if device == "cpu":
        products.append(timed(lambda: np.matmul(slab.numpy(), points.numpy().T, out=out.numpy())))
    return lambda: min((product() for product in products), key=_seconds).times(len(points) / len(slab))


def forward_floor(parameters: int, tokens: int, dim: int, dtype: torch.dtype, device: str) -> Contender:
    """What 2 operations per parameter and token take at the rate of a product of the model's own width and dtype."""
    left, right = (
        torch.ones(SLAB, dim, dtype=dtype, device=device),
        torch.ones(dim, 4 * dim, dtype=dtype, device=device),
    )
    repeats = 20
    product = timed(lambda: [left @ right for _ in range(repeats)], device)
    return lambda: product().times(parameters * tokens / (repeats * SLAB * dim * 4 * dim))


def _seconds(took: Took) -> float:
    return took.cpu
