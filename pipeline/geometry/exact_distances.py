"""Distances of chosen pairs by differences of the stored values, where a product's cancellation does not reach."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.geometry.candidates import pairs_by_faiss
from pipeline.geometry.chunking import WORK_BYTES, tiles

SUMMED = {"cpu": 64, "cuda": 2048}
"""Coordinates of a sum in float32: at most 16 terms for each of a processor's lanes, then a tree over the lanes."""
SLACK = 2.0**-20
"""Relative error of a distance is below this: (3 + 16 + 8) / 2 roundings at worst; 2e-7 was seen."""
NEAREST = 16
"""Ranks taken again with squares summed in float64, to 6e-8; the estimates of small scales need no others."""
CLEAR = 2.0**38
"""A sum so many times the smallest normal number has lost nothing to underflow, in up to 4096 coordinates."""


def distances(
    points: Float[Tensor, "points dim"], rows: Int[Tensor, " rows"], others: Int[Tensor, "rows width"]
) -> Float64[Tensor, "rows width"]:
    """From each of `points[rows]` to its others; infinite where a difference overflows the dtype of the points.

    Differences are taken in the dtype of the points. Their squares are summed in it over a few coordinates and in
    float64 over those sums; of the nearest ones, and where squares leave the range of the dtype, in float64 throughout.
    """
    squared = torch.zeros(others.shape, dtype=torch.float64, device=points.device)
    for some in points.split(SUMMED[points.device.type], dim=1):
        squared += _squared(some.contiguous(), rows, others)
    outside = ((squared < CLEAR * torch.finfo(points.dtype).tiny) | ~squared.isfinite()).nonzero(as_tuple=True)
    near = squared.topk(min(NEAREST, others.shape[1]), largest=False).indices
    found = squared.sqrt_()
    found.scatter_(1, near, _in_float64(points, rows, others.gather(1, near)))
    found[outside] = _in_float64(points, rows[outside[0]], others[outside][:, None])[:, 0]
    return found


def _squared(points: Tensor, rows: Tensor, others: Tensor) -> Float[Tensor, "rows width"]:
    if points.dtype == torch.float32 and (found := pairs_by_faiss(points, rows, others)) is not None:
        return found
    parts = tiles(len(rows), others.shape[1] * points[0].nbytes, WORK_BYTES[points.device.type])
    return torch.cat([_gathered(points, rows[part], others[part]) for part in parts]).square_()


def _gathered(points: Tensor, rows: Tensor, others: Tensor) -> Float[Tensor, "rows width"]:
    near = _rows(points, others)
    return torch.cdist(points[rows, None], near, compute_mode="donot_use_mm_for_euclid_dist").squeeze(1)


def _in_float64(points: Tensor, rows: Tensor, others: Tensor) -> Float64[Tensor, "rows width"]:
    parts = tiles(len(rows), 6 * others.shape[1] * points.shape[1], WORK_BYTES[points.device.type])
    differences = (_rows(points, others[part]).sub_(points[rows[part], None]) for part in parts)
    return torch.cat([torch.linalg.vector_norm(some, dim=2, dtype=torch.float64) for some in differences])


def _rows(points: Tensor, indices: Tensor) -> Float[Tensor, "rows width dim"]:
    return points.index_select(0, indices.flatten()).view(*indices.shape, points.shape[1])
