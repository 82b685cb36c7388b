"""Synthetic point clouds and brute-force references that share no code with the package."""

import torch
from torch import Tensor


def curved(n: int, dim: int, intrinsic: int = 10, seed: int = 0) -> Tensor:
    """Return float32 points `[n, dim]` on a curved manifold of dimension `intrinsic`."""
    g = torch.Generator().manual_seed(seed)
    return torch.tanh(torch.randn(n, intrinsic, generator=g) @ torch.randn(intrinsic, dim, generator=g) / 3)


def hard_clouds(n: int, dim: int) -> dict[str, Tensor]:
    """Return clouds with offsets, rogue dimensions and massive tokens as in language models, in units of the spread."""
    base = curved(n, dim)
    clouds = {"plain": base}
    for offset in (10.0, 1e2, 1e3, 1e4):
        clouds[f"offset {offset:g}"] = base + offset * dim**0.5 * torch.eye(dim)[3]
    for factor in (1e2, 1e3, 1e4):
        clouds[f"rogue {factor:g}"] = base * (1 + (factor - 1) * torch.eye(dim)[3])
    for factor in (1e2, 1e4):
        massive = base.clone()
        massive[: n // 100] *= factor
        clouds[f"massive {factor:g}"] = massive
    return clouds


def brute(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices of the k nearest others from all N^2 float64 differences; ties ordered by index."""
    wide = points.to(torch.float64)
    distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    nearest = distances.sort(dim=1, stable=True)
    return nearest.values[:, :k], nearest.indices[:, :k]


def rotation(dim: int, seed: int = 0) -> Tensor:
    """Return a random orthogonal float64 matrix."""
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64)).Q


def zipf(n: int, types: int, intrinsic: int = 10, dim: int = 64) -> Tensor:
    """Return n rows drawn with Zipf frequencies from `types` distinct rows, like layer 0 of a rotary model."""
    g = torch.Generator().manual_seed(1)
    table = torch.randn(types, intrinsic, generator=g) @ torch.randn(intrinsic, dim, generator=g)
    return table[torch.multinomial(1 / torch.arange(1.0, types + 1), n, replacement=True, generator=g)]
