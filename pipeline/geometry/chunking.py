"""Row chunks sized for the device, and selection and sorting of rows."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**30}
"""Bytes of working memory of one chunk, by device type. They are few on the CPU, because there the allocation of new
memory pages costs more than the arithmetic."""


def chunk_slices(rows: int, bytes_per_row: int, work: int) -> Iterator[slice]:
    """Yield consecutive slices that together cover `rows` rows.

    A slice has at most `work` bytes, but at least one row. Zero rows give one empty slice.
    """
    step = max(work // max(bytes_per_row, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step))


def chunk_matrix_rows(points: Shaped[Tensor, "rows dim"], bytes_per_coordinate: int) -> Iterator[slice]:
    """Yield slices of the rows of a matrix, for work that needs `bytes_per_coordinate` bytes per element.

    Each slice needs at most CHUNK_BYTES of the matrix's device.
    """
    return chunk_slices(len(points), bytes_per_coordinate * points.shape[1], CHUNK_BYTES[points.device.type])


def select_rows(
    rows: Shaped[Tensor, "rows ..."], ascending: Int[Tensor, " selected"]
) -> Shaped[Tensor, "selected ..."]:
    """Return the rows at distinct ascending indices; if these are all rows, return `rows` itself without a copy."""
    return rows if len(ascending) == len(rows) else rows.index_select(0, ascending)


def sort_rows(indices: Int[Tensor, "rows columns"]) -> Int[Tensor, "rows columns"]:
    """Return the matrix with each row sorted in ascending order.

    On the CPU, numpy sorts, because its vectorised sort takes a fifth of the time of torch's.
    """
    if indices.device.type == "cpu":
        return torch.from_numpy(np.sort(indices.numpy(), axis=1))
    return indices.sort(1).values


def first_of_each(labels: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Return a mask that is True at the first row of each distinct label."""
    first = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    if len(labels):
        _, index = labels.unique(return_inverse=True)
        earliest = torch.full((int(index.max()) + 1,), len(labels), device=labels.device)
        earliest.scatter_reduce_(0, index, torch.arange(len(labels), device=labels.device), "amin")
        first[earliest] = True
    return first
