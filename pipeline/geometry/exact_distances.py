"""Distances of given pairs of points from differences of the stored values, which avoids cancellation."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.geometry.candidates import faiss_squared_distances
from pipeline.geometry.chunking import CHUNK_BYTES, chunk_slices

FLOAT32_SUM_COORDINATES = {"cpu": 64, "cuda": 2048}
"""Number of coordinates, by device type, whose squares are summed in float32. A SIMD lane then adds at most 16 terms,
and a tree adds the lanes."""
DISTANCE_TOLERANCE = 2.0**-20
"""Upper bound of the relative error of a distance, which has at most (3 + 16 + 8) / 2 float32 roundings. The measured
error is 2e-7."""
FLOAT64_RANKS = 16
"""Number of nearest neighbours per point for which all sums are float64 (relative error 6e-8). Estimates at small
scales use only these neighbours."""
UNDERFLOW_MARGIN = 2.0**38
"""A sum of up to 4096 squares is accurate despite underflow if it exceeds this multiple of the smallest normal number.
Smaller sums are computed again in float64."""


def pair_distances(
    points: Float[Tensor, "points dim"], rows: Int[Tensor, " rows"], others: Int[Tensor, "rows width"]
) -> Float64[Tensor, "rows width"]:
    """Return at [i, j] the distance from `points[rows[i]]` to `points[others[i, j]]`, in float64.

    Differences are taken in the dtype of the points; the distance is infinite if a difference overflows it. The squares
    of FLOAT32_SUM_COORDINATES coordinates are summed in that dtype, and these partial sums in float64. All sums are
    float64 for the FLOAT64_RANKS nearest points of each row, and for pairs whose squares leave the range of the dtype.
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
