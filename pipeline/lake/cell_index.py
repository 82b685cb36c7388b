"""Index of the committed cells: all rows, and one row per cell; read from the snapshot and from newer files."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import NamedTuple

import polars as pl

from pipeline.columns import column_names
from pipeline.errors import LakeError
from pipeline.lake.lake import Lake
from pipeline.lake.manifest import CELL_FILE, ROW_FILE, Snapshot, bytes_digest, damaged_snapshot_error, latest_snapshot
from pipeline.lake.scan import polars_schema, scan_cells, scan_unchecked
from pipeline.lake.store import Store

CELL_COLUMNS = (
    *(n for n in column_names("keys", "model", "checkpoint", "text") if n not in ("duplicate_of", "superseded")),
    *("device", "run_id", "written_at", "attempt", "batch_tokens"),
)
"""Columns with one value per cell."""
CELL_COST_COLUMNS = ("load_s", "forward_s", "total_s", "peak_device_mib", "peak_host_mib", "download_bytes")
LAYER_COST_COLUMNS = ("knn_s", "spectrum_s")
PARQUET_READ_ERRORS = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""Errors that polars raises for a damaged file."""


class CellIndex(NamedTuple):
    """Committed cells of a lake."""

    rows: pl.LazyFrame
    """Every row, with the current columns."""
    cells: pl.DataFrame
    """One row per cell: the key of its file, the columns its rows share, row count, worst status and costs."""


def load_cell_index(lake: Lake, files: Mapping[str, str] | None = None) -> CellIndex:
    """Load every committed cell once. A snapshot that lacks a current column is ignored until the next `compact`.

    Args:
        files: result of `lake.cell_files()`, if the caller has listed them already.

    Raises:
        LakeError: a file cannot be read, or its rows are not those of its cell.
    """
    files = lake.cell_files() if files is None else files
    snapshot = latest_snapshot(lake.store)
    cached = snapshot and _load_snapshot_index(lake.store, snapshot)
    return _merge_index(lake.store, files, cached) if cached else index_cell_files(lake.store, files)


def index_cell_files(store: Store, files: Mapping[str, str]) -> CellIndex:
    """Index the cells of these files (cell id -> key) without the snapshot."""
    rows = scan_cells(store, files.values())
    cells = collect_rows(aggregate_cells(rows), store.uri)
    if foreign := files.keys() ^ set(cells["cell_id"]):
        _raise_unreadable(store, files, foreign, "its rows are not those of its cell id")
    if duplicates := cells.filter(pl.col("rows") != pl.col("layers"))["cell_id"].to_list():
        _raise_unreadable(store, files, duplicates, "a layer has two rows")
    keys = cells["cell_id"].replace_strict(files, return_dtype=pl.String)
    return CellIndex(rows, cells.drop("layers").insert_column(0, keys.alias("key")))


def collect_rows(rows: pl.LazyFrame, uri: str) -> pl.DataFrame:
    """Compute a frame over the cells of the lake `uri`; raise LakeError if a file is damaged."""
    try:
        return rows.collect()
    except PARQUET_READ_ERRORS as error:
        found, do = " ".join(str(error).split()), f"Run shapelake verify --lake {uri}"
        raise LakeError(f"read the cells of the lake {uri}", found, do) from error


def _raise_unreadable(store: Store, files: Mapping[str, str], cell_ids: Iterable[str], found: str) -> None:
    key = min((files[cell_id] for cell_id in cell_ids if cell_id in files), default="the cells")
    raise LakeError(f"read {key} of the lake {store.uri}", found, "Restore the file or move it out of the lake")


def _load_snapshot_index(store: Store, snapshot: Snapshot) -> CellIndex | None:
    """Load the index of the snapshot; None if it lacks a current column."""
    row_key, cell_key = snapshot.file_key(ROW_FILE), snapshot.file_key(CELL_FILE)
    data = store.get(cell_key)
    if bytes_digest(data) != snapshot.digests.get(CELL_FILE):
        raise damaged_snapshot_error(store, cell_key, "changed since it was written")
    sources = store.paths_or_bytes([row_key])
    try:
        cells = pl.read_parquet(BytesIO(data))
        columns = pl.scan_parquet(list(sources)).collect_schema()  # type: ignore[arg-type]
    except PARQUET_READ_ERRORS as error:
        raise damaged_snapshot_error(store, row_key, " ".join(str(error).split())) from error
    wanted = aggregate_cells(pl.LazyFrame(schema=polars_schema())).drop("layers").collect_schema()
    is_current = {*polars_schema()} <= {*columns} and {*wanted} <= {*cells.columns}
    return CellIndex(scan_unchecked(sources), cells) if is_current else None


def _merge_index(store: Store, files: Mapping[str, str], cached: CellIndex) -> CellIndex:
    """Drop cells whose file is gone from the snapshot's index, and add the cells that it lacks."""
    cached_keys, current_keys = set(cached.cells["key"]), set(files.values())
    rows, cells = cached
    if cached_keys - current_keys:
        gone = pl.col("key").is_in(cached_keys - current_keys)
        rows = rows.filter(~pl.col("cell_id").is_in(cells.filter(gone)["cell_id"].implode()))
        cells = cells.filter(~gone)
    if current_keys <= cached_keys:
        return CellIndex(rows, cells)
    added = index_cell_files(store, {cell_id: key for cell_id, key in files.items() if key not in cached_keys})
    return CellIndex(pl.concat([rows, added.rows]), pl.concat([cells, added.cells.select(cells.columns)]))


def aggregate_cells(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Reduce rows to one row per cell, with the number of its distinct layers."""
    status = pl.col("status").fill_null("")
    nonfinite, degenerate = ~status.is_in(["ok", "degenerate"]).all(), (status == "degenerate").any()
    worst = pl.when(nonfinite).then(pl.lit("nonfinite")).when(degenerate).then(pl.lit("degenerate"))
    shared = [pl.col(name).first() for name in CELL_COLUMNS if name != "cell_id"]
    counts = [pl.len().cast(pl.Int64).alias("rows"), pl.col("layer").n_unique().cast(pl.Int64).alias("layers")]
    status = worst.otherwise(pl.lit("ok")).alias("status")
    costs = [pl.col(name).max() for name in CELL_COST_COLUMNS]
    costs += [pl.when(c.count() > 0).then(c.cast(pl.Float64).sum()) for c in map(pl.col, LAYER_COST_COLUMNS)]
    return rows.group_by("cell_id").agg(*shared, *counts, status, *costs).sort("cell_id")
