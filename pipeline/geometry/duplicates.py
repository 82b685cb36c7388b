"""Exact duplicate rows: found by hash, verified, the first of each kept."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Int64, Shaped
from torch import Tensor

from pipeline.geometry.chunking import CHUNK_BYTES, chunk_matrix_rows, chunk_slices

_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


class DistinctRows(NamedTuple):
    """The distinct rows of a cloud."""

    first_indices: Int[Tensor, " first_indices"]
    """Index of the first copy of each, ascending."""
    copies: Int[Tensor, " first_indices"]
    """How many rows equal it, itself among them."""


def find_distinct_rows(points: Shaped[Tensor, "points dim"]) -> DistinctRows:
    """The distinct rows of `points`, equal meaning equal in every coordinate (0.0 equals -0.0)."""
    order, opens = _sorted_runs(_hash(points))
    if not _runs_are_equal(points, order, opens):
        # Different rows with one hash: sort the rows themselves, which is slow and certain.
        order, opens = _sorted_runs((points + 0).unique(dim=0, return_inverse=True)[1])
    starts = opens.nonzero().flatten()
    ends = torch.cat([starts[1:], starts.new_tensor([len(points)])])
    kept, by_index = order[starts].sort()
    return DistinctRows(kept, (ends - starts)[by_index])


def _hash(points: Shaped[Tensor, "points dim"]) -> Int64[Tensor, " points"]:
    """Sum of the coordinates' bits times seeded odd 64-bit numbers, modulo 2^64."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (points.shape[1],), generator=generator).to(points.device) | 1
    return torch.cat([(_bits(points[part]) * factors).sum(1) for part in chunk_matrix_rows(points, 24)])


def _bits(points: Shaped[Tensor, "points dim"]) -> Int64[Tensor, "points dim"]:
    bits = (points + 0).contiguous().view(_BITS[points.element_size()]).to(torch.int64)  # + 0 makes one zero of two
    # The top bit times an odd number is the top bit: fold the sign and exponent of float64 into the low half.
    return bits ^ (bits >> 32) if points.element_size() == 8 else bits


def _sorted_runs(hashes: Int64[Tensor, " points"]) -> tuple[Int[Tensor, " points"], Bool[Tensor, " points"]]:
    """Order that brings equal hashes together, first index first; and where in it a new hash begins."""
    values, order = hashes.sort(stable=True)
    opens = torch.ones_like(values, dtype=torch.bool)
    opens[1:] = values[1:] != values[:-1]
    return order, opens


def _runs_are_equal(
    points: Shaped[Tensor, "points dim"], order: Int[Tensor, " points"], opens: Bool[Tensor, " points"]
) -> bool:
    """Whether rows with one hash are really equal: each but the first of a run to the one before it."""
    later = (~opens).nonzero().flatten()
    parts = chunk_slices(len(later), 2 * points[:1].nbytes, CHUNK_BYTES[points.device.type])
    return all(bool((points[order[later[part]]] == points[order[later[part] - 1]]).all()) for part in parts)
