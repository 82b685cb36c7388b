"""Row chunks sized for the device, and selection and sorting of rows."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**30}
"""Working memory of one chunk by device; small on the CPU, where allocating new pages costs more than arithmetic."""


def chunk_slices(rows: int, bytes_per_row: int, work: int) -> Iterator[slice]:
    """Yield slices that cover `rows` rows with at most `work` bytes each; zero rows give one empty slice."""
    step = max(work // max(bytes_per_row, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step))


def chunk_matrix_rows(points: Shaped[Tensor, "rows dim"], bytes_per_coordinate: int) -> Iterator[slice]:
    """Yield slices of the rows of a matrix for work that needs `bytes_per_coordinate` bytes per element."""
    return chunk_slices(len(points), bytes_per_coordinate * points.shape[1], CHUNK_BYTES[points.device.type])


def select_rows(
    rows: Shaped[Tensor, "rows ..."], ascending: Int[Tensor, " selected"]
) -> Shaped[Tensor, "selected ..."]:
    """Return the rows at distinct ascending indices; shares storage with `rows` if all are selected."""
    return rows if len(ascending) == len(rows) else rows.index_select(0, ascending)


def sort_rows(indices: Int[Tensor, "rows columns"]) -> Int[Tensor, "rows columns"]:
    """Sort each row in ascending order, on the CPU with numpy's vectorised sort: a fifth of torch's time."""
    if indices.device.type == "cpu":
        return torch.from_numpy(np.sort(indices.numpy(), axis=1))
    return indices.sort(1).values


def first_of_each(labels: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Return the mask of the first row of each label."""
    first = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    if len(labels):
        _, index = labels.unique(return_inverse=True)
        earliest = torch.full((int(index.max()) + 1,), len(labels), device=labels.device)
        earliest.scatter_reduce_(0, index, torch.arange(len(labels), device=labels.device), "amin")
        first[earliest] = True
    return first
