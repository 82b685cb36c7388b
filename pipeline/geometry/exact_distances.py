"""Distances of given pairs by differences of the stored values, without the cancellation of matrix products."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.geometry.candidates import faiss_squared_distances
from pipeline.geometry.chunking import CHUNK_BYTES, chunk_slices

FLOAT32_SUM_COORDINATES = {"cpu": 64, "cuda": 2048}
"""Number of coordinates summed in float32: at most 16 terms per SIMD lane, then a tree over the lanes."""
DISTANCE_TOLERANCE = 2.0**-20
"""Upper bound of the relative error of a distance: (3 + 16 + 8) / 2 roundings at worst; measured: 2e-7."""
FLOAT64_RANKS = 16
"""Number of nearest ranks whose squares are summed in float64 (error 6e-8); small-scale estimates use only these."""
UNDERFLOW_MARGIN = 2.0**38
"""Multiple of the smallest normal number above which a sum of up to 4096 squares is not affected by underflow."""


def pair_distances(
    points: Float[Tensor, "points dim"], rows: Int[Tensor, " rows"], others: Int[Tensor, "rows width"]
) -> Float64[Tensor, "rows width"]:
    """Return float64 distances from `points[rows]` to `points[others]`, row by row; infinite where the dtype overflows.

    Differences are taken in the dtype of the points. Squares are summed in that dtype over a few coordinates and in
    float64 over these partial sums. The FLOAT64_RANKS nearest ranks, and pairs whose squares leave the range of the
    dtype, are summed in float64 throughout.
    """
    squared = torch.zeros(others.shape, dtype=torch.float64, device=points.device)
    for block in points.split(FLOAT32_SUM_COORDINATES[points.device.type], dim=1):
        squared += _squared(block.contiguous(), rows, others)
    outside = ((squared < UNDERFLOW_MARGIN * torch.finfo(points.dtype).tiny) | ~squared.isfinite()).nonzero(
        as_tuple=True
    )
    near = squared.topk(min(FLOAT64_RANKS, others.shape[1]), largest=False).indices
    found = squared.sqrt_()
    found.scatter_(1, near, _in_float64(points, rows, others.gather(1, near)))
    found[outside] = _in_float64(points, rows[outside[0]], others[outside][:, None])[:, 0]
    return found


def _squared(points: Tensor, rows: Tensor, others: Tensor) -> Float[Tensor, "rows width"]:
    if points.dtype == torch.float32 and (found := faiss_squared_distances(points, rows, others)) is not None:
        return found
    parts = chunk_slices(len(rows), others.shape[1] * points[0].nbytes, CHUNK_BYTES[points.device.type])
    return torch.cat([_gathered(points, rows[part], others[part]) for part in parts]).square_()


def _gathered(points: Tensor, rows: Tensor, others: Tensor) -> Float[Tensor, "rows width"]:
    near = _rows(points, others)
    return torch.cdist(points[rows, None], near, compute_mode="donot_use_mm_for_euclid_dist").squeeze(1)


def _in_float64(points: Tensor, rows: Tensor, others: Tensor) -> Float64[Tensor, "rows width"]:
    parts = chunk_slices(len(rows), 6 * others.shape[1] * points.shape[1], CHUNK_BYTES[points.device.type])
    differences = (_rows(points, others[part]).sub_(points[rows[part], None]) for part in parts)
    return torch.cat([torch.linalg.vector_norm(part, dim=2, dtype=torch.float64) for part in differences])


def _rows(points: Tensor, indices: Tensor) -> Float[Tensor, "rows width dim"]:
    return points.index_select(0, indices.flatten()).view(*indices.shape, points.shape[1])
