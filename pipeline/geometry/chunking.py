"""Rows in parts that fit where the device is fast, and a choice of rows that copies nothing where all are chosen."""

from collections.abc import Iterator

from jaxtyping import Int, Shaped
from torch import Tensor

CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**30}
"""Of the work on one tile. Little on the CPU: fresh pages cost more than the arithmetic on them."""


def chunk_slices(rows: int, bytes_per_row: int, work: int) -> Iterator[slice]:
    """Slices of the rows that need at most `work` bytes each; of no rows one that is empty."""
    step = max(work // max(bytes_per_row, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step))


def chunk_matrix_rows(points: Shaped[Tensor, "rows dim"], bytes_per_coordinate: int) -> Iterator[slice]:
    """Slices of a matrix's rows, for work that needs so many bytes for each of their coordinates."""
    return chunk_slices(len(points), bytes_per_coordinate * points.shape[1], CHUNK_BYTES[points.device.type])


def select_rows(
    rows: Shaped[Tensor, "rows ..."], ascending: Int[Tensor, " select_rows"]
) -> Shaped[Tensor, "select_rows ..."]:
    """The rows of these distinct indices in ascending order; the same storage where these are all."""
    return rows if len(ascending) == len(rows) else rows.index_select(0, ascending)
