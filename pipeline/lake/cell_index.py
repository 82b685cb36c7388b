"""Index of the committed cells: all rows, and one row per cell; read from the snapshot and from newer files."""

from collections.abc import Mapping
from io import BytesIO
from typing import NamedTuple

import polars as pl

from pipeline.lake.cell_chunks import MAX_IN_MEMORY, RowFiles, empty_cells, iter_cell_chunks
from pipeline.lake.lake import Lake
from pipeline.lake.left_out import leave_out
from pipeline.lake.manifest import CELL_FILE, Snapshot, bytes_digest, damaged_snapshot_error, latest_snapshot
from pipeline.lake.scan import PARQUET_READ_ERRORS, polars_schema, scan_unchecked
from pipeline.lake.store import Store


class CellIndex(NamedTuple):
    """Committed cells of a lake; files that cannot be read are left out with a warning."""

    rows: pl.LazyFrame
    """Every row, with the current columns."""
    cells: pl.DataFrame
    """One row per cell: the key of its file, the columns its rows share, row count, worst status and costs."""
    row_files: RowFiles | None = None
    """Temporary files of `rows`, if there are any: they exist as long as this reference."""


def load_cell_index(lake: Lake, files: Mapping[str, str] | None = None) -> CellIndex:
    """Load every committed cell once. A snapshot that lacks a current column is ignored until the next `compact`.

    Args:
        files: result of `lake.cell_files()`, if the caller has listed them already.

    Raises:
        LakeError: the snapshot cannot be read.
    """
    files = lake.cell_files() if files is None else files
    snapshot = latest_snapshot(lake.store)
    cached = load_snapshot_index(lake.store, snapshot) if snapshot else None
    return _merge_index(lake.store, files, cached) if cached else index_cell_files(lake.store, files)


def index_cell_files(store: Store, files: Mapping[str, str]) -> CellIndex:
    """Index the cells of these files (cell id -> key) without the snapshot."""
    row_files = RowFiles() if len(files) > MAX_IN_MEMORY else None
    rows, cells = [], [empty_cells()]
    for chunk in iter_cell_chunks(store, files):
        row_files.append(chunk.rows) if row_files else rows.append(chunk.rows.lazy())
        cells.append(chunk.cells)
        leave_out(store.uri, chunk.damaged)
    scan = scan_unchecked(row_files.paths) if row_files else pl.concat([scan_unchecked([]), *rows])
    return CellIndex(scan, pl.concat(cells).sort("cell_id"), row_files)


def load_snapshot_index(store: Store, snapshot: Snapshot) -> CellIndex | None:
    """Load the index of the snapshot; None if it lacks a current column.

    Raises:
        LakeError: a file of the snapshot is missing or damaged.
    """
    cells = read_cell_file(store, snapshot)
    sources = store.paths_or_bytes([part.key for part in snapshot.parts])
    key = snapshot.parts[0].key if snapshot.parts else snapshot.key
    try:
        columns = [set(pl.scan_parquet(source).collect_schema()) for source in sources]  # type: ignore[arg-type]
    except PARQUET_READ_ERRORS as error:
        raise damaged_snapshot_error(store, key, " ".join(str(error).split())) from error
    is_current = all({*polars_schema()} <= found for found in columns) and {*empty_cells().columns} <= {*cells.columns}
    return CellIndex(scan_unchecked(sources), cells.select(empty_cells().columns)) if is_current else None


def read_cell_file(store: Store, snapshot: Snapshot) -> pl.DataFrame:
    """Read the snapshot's index, one row per cell; `part` is the key of the file that has its rows.

    Raises:
        LakeError: the file is missing or damaged.
    """
    key = snapshot.file_key(CELL_FILE)
    data = store.get(key)
    if bytes_digest(data) != snapshot.digests.get(CELL_FILE):
        raise damaged_snapshot_error(store, key, "changed since it was written")
    try:
        cells = pl.read_parquet(BytesIO(data))
    except PARQUET_READ_ERRORS as error:
        raise damaged_snapshot_error(store, key, " ".join(str(error).split())) from error
    return cells if "part" in cells.columns else cells.with_columns(part=pl.lit(snapshot.parts[0].key))


def _merge_index(store: Store, files: Mapping[str, str], cached: CellIndex) -> CellIndex:
    """Drop cells whose file is gone from the snapshot's index, and add the cells that it lacks."""
    cached_keys, current_keys = set(cached.cells["key"]), set(files.values())
    rows, cells = cached.rows, cached.cells
    if cached_keys - current_keys:
        gone = pl.col("key").is_in(cached_keys - current_keys)
        rows = rows.filter(~pl.col("cell_id").is_in(cells.filter(gone)["cell_id"].implode()))
        cells = cells.filter(~gone)
    if current_keys <= cached_keys:
        return CellIndex(rows, cells)
    added = index_cell_files(store, {cell_id: key for cell_id, key in files.items() if key not in cached_keys})
    return CellIndex(pl.concat([rows, added.rows]), pl.concat([cells, added.cells]), added.row_files)
