"""Search for exact duplicate rows by hash. Rows with equal hashes are compared, so that the result is exact."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Int64, Shaped
from torch import Tensor

from pipeline.geometry.chunking import CHUNK_BYTES, chunk_matrix_rows, chunk_slices

_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


class DistinctRows(NamedTuple):
    """Distinct rows of a point cloud."""

    first_indices: Int[Tensor, " distinct"]
    """Index of the first copy of each distinct row, ascending."""
    copies: Int[Tensor, " distinct"]
    """Number of rows equal to each distinct row, including itself."""


def find_distinct_rows(points: Shaped[Tensor, "points dim"]) -> DistinctRows:
    """Return the distinct rows of `points`; two rows are equal if all coordinates are equal (0.0 equals -0.0)."""
    order, opens = _sorted_runs(_hash(points))
    if not _runs_are_equal(points, order, opens):
        # Different rows have equal hashes, so the rows themselves are sorted, which is slow but exact.
        order, opens = _sorted_runs((points + 0).unique(dim=0, return_inverse=True)[1])
    starts = opens.nonzero().flatten()
    ends = torch.cat([starts[1:], starts.new_tensor([len(points)])])
    first_indices, by_index = order[starts].sort()
    return DistinctRows(first_indices, (ends - starts)[by_index])


def _hash(points: Shaped[Tensor, "points dim"]) -> Int64[Tensor, " points"]:
    """Return a hash of each row: sum over coordinates of (its bits as an integer) * (a random odd number), mod 2^64."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (points.shape[1],), generator=generator).to(points.device) | 1
    return torch.cat([(_bits(points[part]) * factors).sum(1) for part in chunk_matrix_rows(points, 24)])


def _bits(points: Shaped[Tensor, "points dim"]) -> Int64[Tensor, "points dim"]:
    bits = (points + 0).contiguous().view(_BITS[points.element_size()]).to(torch.int64)  # + 0 turns -0.0 into 0.0
    # An odd factor maps the top bit only to itself, so sign and exponent of float64 are folded into the low half.
    return bits ^ (bits >> 32) if points.element_size() == 8 else bits


def _sorted_runs(hashes: Int64[Tensor, " points"]) -> tuple[Int[Tensor, " points"], Bool[Tensor, " points"]]:
    """Return a stable order in which equal hashes are adjacent, and a mask of the places in it where a hash begins."""
    values, order = hashes.sort(stable=True)
    opens = torch.ones_like(values, dtype=torch.bool)
    opens[1:] = values[1:] != values[:-1]
    return order, opens


def _runs_are_equal(
    points: Shaped[Tensor, "points dim"], order: Int[Tensor, " points"], opens: Bool[Tensor, " points"]
) -> bool:
    """Return True if all rows with equal hashes are equal; each row of a run is compared with the row before it."""
    later = (~opens).nonzero().flatten()
    parts = chunk_slices(len(later), 2 * points[:1].nbytes, CHUNK_BYTES[points.device.type])
    return all(bool((points[order[later[part]]] == points[order[later[part] - 1]]).all()) for part in parts)
