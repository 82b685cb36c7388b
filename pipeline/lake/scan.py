"""Scan of the rows of many cells as one lazy frame, whatever version of the schema they have, and tests for damage."""

import re
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pipeline.columns import all_columns
from pipeline.lake import checksum

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
POLARS_TYPES: dict[str, pl.DataType] = {
    **{"string": pl.String(), "bool": pl.Boolean(), "int16": pl.Int16(), "int32": pl.Int32(), "int64": pl.Int64()},
    **{"float32": pl.Float32(), "float64": pl.Float64()},
    "timestamp[us, UTC]": pl.Datetime("us", "UTC"),
}
PARQUET_READ_ERRORS = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""Errors that polars raises for a damaged file."""
ARROW_READ_ERRORS = (OSError, ValueError, MemoryError, KeyError)
"""Errors that pyarrow raises for a damaged file; ArrowInvalid is a ValueError."""
MAX_CELL_ROWS = 10_000
"""Upper bound on the layers of a cell, far above any model; a file with more rows is not decoded."""
MAX_CELL_VALUES = 10_000_000
"""Upper bound on the values of one column, list items included; a file with more is not decoded. Without this bound, a
few bytes could encode billions of equal values."""
MILLIONS_PATTERN = re.compile(rb"\x16[\x80-\xff]{3,9}[\x00-\x7f]")
"""Encoded count of more than a million in a footer: header of a 64-bit field, then a varint of four bytes or more.

Searching a footer takes 35 us; parsing a footer takes 1.4 ms, as long as reading the rest of a cell.
"""
ParquetSource = Path | bytes


def scan_unchecked(sources: Sequence[ParquetSource]) -> pl.LazyFrame:
    """Scan the rows of these Parquet files with the columns of this version; the files are not checked for damage."""
    if not sources:
        return pl.LazyFrame(schema=polars_schema())
    return pl.scan_parquet(
        list(sources),  # type: ignore[arg-type]
        schema=polars_schema(),
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=False,
        glob=False,
    )


def find_damage(data: bytes) -> str | None:
    """Describe the damage of a cell's file; None if the file is intact."""
    if not (len(data) > 2 * len(MAGIC) and data.startswith(MAGIC) and data.endswith(MAGIC)):
        return "not a complete Parquet file"
    is_corrupt = checksum.is_corrupt(data)
    if is_corrupt:
        return "changed since it was written"
    if is_corrupt is None:  # written by hand or by an older version
        return _find_parse_error(data, to_the_end=True)
    return _find_parse_error(data, to_the_end=False) if MILLIONS_PATTERN.search(_footer(data)) else None


def _footer(data: bytes) -> memoryview:
    """Return the footer of a Parquet file, whose length is stored before the last four bytes."""
    end = len(data) - 2 * len(MAGIC)
    return memoryview(data)[max(end - int.from_bytes(data[end : end + 4], "little"), 0) : end]


def _find_parse_error(data: bytes, to_the_end: bool) -> str | None:
    """Describe why a file is unreadable or too large for a cell, else None; decodes values only if `to_the_end`."""
    import pyarrow.parquet as pq  # slow to load, rarely needed

    try:
        file = pq.ParquetFile(BytesIO(data))
        if found := find_excess(file.metadata):
            return found
        if to_the_end:
            file.read().validate(full=True)
    except ARROW_READ_ERRORS as error:
        return describe_parse_error(error)
    return None


def describe_parse_error(error: BaseException) -> str:
    """Describe an error of decoding a file, in one line."""
    return f"not a readable Parquet file ({' '.join(str(error).split())})"


def find_excess(footer: "pq.FileMetaData") -> str | None:
    """Describe why a file with this footer has too much data for a cell; None if its size is plausible."""
    if footer.num_rows > MAX_CELL_ROWS:
        return f"{footer.num_rows:,} rows, too many for a cell"
    n_values = Counter[int]()
    for group in map(footer.row_group, range(footer.num_row_groups)):
        n_values.update({i: group.column(i).num_values for i in range(group.num_columns)})
    most = max(n_values.values(), default=0)
    return f"a column of {most:,} values, too many for a cell" if most > MAX_CELL_VALUES else None


def polars_schema() -> pl.Schema:
    """Return the lake's schema in polars types."""
    return pl.Schema({column.name: _type(column.type) for column in all_columns()})


def _type(name: str) -> pl.DataType:
    if name.startswith("list<"):
        return pl.List(POLARS_TYPES[name.removeprefix("list<").removesuffix(">")])
    return POLARS_TYPES[name]
