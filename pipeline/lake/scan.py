"""The rows of many cells as one lazy frame, whatever version of the schema each file was written with."""

import os
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from pipeline.columns import columns
from pipeline.errors import LakeError

MAGIC = b"PAR1"
TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "bool": pl.Boolean(),
    "int16": pl.Int16(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "float32": pl.Float32(),
    "float64": pl.Float64(),
    "timestamp[us, UTC]": pl.Datetime("us", "UTC"),
}


def scan(files: Iterable[Path]) -> pl.LazyFrame:
    """Every row of these files with the columns of today: absent ones are null, unknown ones are left out.

    Polars reads thousands of small files three to five times faster than pyarrow or duckdb do.

    Raises:
        LakeError: a file that is no Parquet file.
    """
    paths = [_checked(path) for path in files]
    if not paths:
        return pl.LazyFrame(schema=schema())
    return pl.scan_parquet(
        paths, schema=schema(), missing_columns="insert", extra_columns="ignore", hive_partitioning=False, glob=False
    )


def schema() -> pl.Schema:
    """The lake's schema in polars' types."""
    return pl.Schema({column.name: _type(column.type) for column in columns()})


def _type(name: str) -> pl.DataType:
    if name.startswith("list<"):
        return pl.List(TYPES[name.removeprefix("list<").removesuffix(">")])
    return TYPES[name]


def _checked(path: Path) -> Path:
    """The path, if the file begins and ends as Parquet files do."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(max(os.fstat(file.fileno()).st_size - 4, 0))
            found = None if head == MAGIC == file.read() else "not a whole Parquet file"
    except OSError as error:
        found = error.strerror
    if found:
        raise LakeError(f"read {path}", found, "Move it out of the lake, or mend its permissions")
    return path
