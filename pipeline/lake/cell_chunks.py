"""Reading of cell files in chunks, so that memory is bounded.

A chunk has all rows of its cells, an index with one row per cell, and the damaged files.
"""

import weakref
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import NamedTuple

import polars as pl

from pipeline.columns import column_names
from pipeline.lake.scan import MAX_CELL_ROWS, PARQUET_READ_ERRORS, find_damage, scan_unchecked
from pipeline.lake.store import Store
from pipeline.progress import track

CHUNK_CELLS = 250
"""Number of cells that are read at a time."""
TYPICAL_ROWS = 200
"""Upper bound on the rows of most cells. The rows of each file of a chunk are counted only if the chunk has over this
number per cell, plus MAX_CELL_ROWS."""
MAX_IN_MEMORY = 2000
"""Largest number of cells whose rows are kept in memory. The rows of more cells are written to temporary files."""
CELL_COLUMNS = (
    *(n for n in column_names("keys", "model", "checkpoint", "text") if n not in ("duplicate_of", "superseded")),
    *("device", "run_id", "written_at", "attempt", "batch_tokens"),
)
"""Columns with one value per cell."""
CELL_COST_COLUMNS = ("load_s", "forward_s", "total_s", "peak_device_mib", "peak_host_mib", "download_bytes")
LAYER_COST_COLUMNS = ("knn_s", "spectrum_s")


class CellChunk(NamedTuple):
    """Intact cells and damaged files of one chunk."""

    rows: pl.DataFrame
    """Every row of the intact cells, with the columns of this version."""
    cells: pl.DataFrame
    """One row per intact cell: the key of its file, the columns that have one value per cell, the number of rows, the
    worst status of any row, and costs."""
    damaged: dict[str, str]
    """Maps the key of each damaged file to the reason, such as an unreadable file or rows of another cell."""


def iter_cell_chunks(store: Store, files: Mapping[str, str]) -> Iterator[CellChunk]:
    """Yield the cells of these files (cell id -> key) in order, CHUNK_CELLS at a time."""
    items = list(files.items())
    chunks = (dict(items[start : start + CHUNK_CELLS]) for start in range(0, len(items), CHUNK_CELLS))
    for chunk in track(chunks, f"Reading cells of {store.uri}", len(items), "cells", len):
        yield read_cell_chunk(store, chunk)


def read_cell_chunk(store: Store, files: Mapping[str, str]) -> CellChunk:
    """Read the cells of these files (cell id -> key); damaged files are left out, and listed in `damaged`."""
    intact, damaged = _read_intact(store, files)
    if excess := _find_excess(intact):
        damaged |= {files[cell_id]: reason for cell_id, reason in excess.items()}
        intact = {cell_id: data for cell_id, data in intact.items() if cell_id not in excess}
    try:
        chunk = _decode(intact, files)
    except PARQUET_READ_ERRORS:
        chunk = None
    if chunk is None:  # the rows of at least one file do not match its name: check each file
        reasons = {files[cell_id]: _reason(cell_id, data, files) for cell_id, data in intact.items()}
        damaged |= {key: reason for key, reason in reasons.items() if reason}
        chunk = _decode({i: data for i, data in intact.items() if files[i] not in damaged}, files)
        assert chunk is not None
    return chunk._replace(damaged=damaged)


def aggregate_cells(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Reduce rows to one row per cell; `rows` and `layers` count the rows and the distinct layers of the cell."""
    status = pl.col("status").fill_null("")
    nonfinite, degenerate = ~status.is_in(["ok", "degenerate"]).all(), (status == "degenerate").any()
    worst = pl.when(nonfinite).then(pl.lit("nonfinite")).when(degenerate).then(pl.lit("degenerate"))
    shared = [pl.col(name).first() for name in CELL_COLUMNS if name != "cell_id"]
    counts = [pl.len().cast(pl.Int64).alias("rows"), pl.col("layer").n_unique().cast(pl.Int64).alias("layers")]
    status = worst.otherwise(pl.lit("ok")).alias("status")
    costs = [pl.col(name).max() for name in CELL_COST_COLUMNS]
    costs += [pl.when(c.count() > 0).then(c.cast(pl.Float64).sum()) for c in map(pl.col, LAYER_COST_COLUMNS)]
    return rows.group_by("cell_id").agg(*shared, *counts, status, *costs).sort("cell_id")


@cache
def empty_cells() -> pl.DataFrame:
    """Return an index of no cells, with all columns. Every caller gets the same frame, and none may change it."""
    cells = aggregate_cells(scan_unchecked([])).drop("layers").collect()
    return cells.insert_column(0, pl.Series("key", [], pl.String))


class RowFiles:
    """Temporary Parquet files with the rows of cells. They are deleted when this object is garbage-collected."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="shapelake-rows-"))
        self.paths: list[Path] = []
        weakref.finalize(self, rmtree, self.folder, ignore_errors=True)

    def append(self, rows: pl.DataFrame) -> None:
        self.paths.append(self.folder / f"{len(self.paths)}.parquet")
        rows.write_parquet(self.paths[-1], compression="lz4", statistics=False)


def _read_intact(store: Store, files: Mapping[str, str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return two dicts: the bytes of each intact file by cell id, and the damage of each other file by key."""
    intact: dict[str, bytes] = {}
    damaged: dict[str, str] = {}
    for (cell_id, key), data in zip(files.items(), store.read_many(list(files.values())), strict=True):
        if isinstance(data, str):
            damaged[key] = data
        elif found := find_damage(data):
            damaged[key] = found
        else:
            intact[cell_id] = data
    return intact, damaged


def _find_excess(intact: Mapping[str, bytes]) -> dict[str, str]:
    """Return the cells whose files have too many rows to decode, with the reason by cell id; only footers are read."""
    n_rows = _count_rows(list(intact.values()))
    if n_rows is not None and n_rows <= MAX_CELL_ROWS + TYPICAL_ROWS * len(intact):
        return {}
    counts = {cell_id: _count_rows([data]) or 0 for cell_id, data in intact.items()}
    return {cell_id: f"{n:,} rows, too many for a cell" for cell_id, n in counts.items() if n > MAX_CELL_ROWS}


def _count_rows(sources: list[bytes]) -> int | None:
    """Count the rows of these files; None if a footer cannot be read."""
    try:
        return scan_unchecked(sources).select(pl.len()).collect().item()
    except PARQUET_READ_ERRORS:
        return None


def _decode(intact: Mapping[str, bytes], files: Mapping[str, str]) -> CellChunk | None:
    """Decode rows and index of these cells.

    Return None if a cell has no rows or has a layer twice, or if a row belongs to a cell that is not one of these.
    """
    rows = scan_unchecked(list(intact.values())).collect()
    cells = aggregate_cells(rows.lazy()).collect()
    if set(cells["cell_id"]) != set(intact) or (cells["rows"] != cells["layers"]).any():
        return None
    keys = cells["cell_id"].replace_strict(dict(files), return_dtype=pl.String)
    return CellChunk(rows, cells.drop("layers").insert_column(0, keys.alias("key")), {})


def _reason(cell_id: str, data: bytes, files: Mapping[str, str]) -> str | None:
    """Return the reason why one file cannot be used; None if the file is intact."""
    try:
        rows = scan_unchecked([data]).select("cell_id", "layer").collect()
        whole = _decode({cell_id: data}, files)
    except PARQUET_READ_ERRORS as error:
        return " ".join(str(error).split())
    if set(rows["cell_id"]) != {cell_id}:
        return "its rows do not belong to its cell id"
    return None if whole else "a layer has two rows"
