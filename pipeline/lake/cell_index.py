"""Index of the committed cells, read from the snapshot and from the files of newer cells.

The index consists of all rows, and of a table with one row per cell.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline.lake.cell_chunks import MAX_IN_MEMORY, RowFiles, empty_cells, iter_cell_chunks
from pipeline.lake.lake import Lake
from pipeline.lake.layout import QUARANTINE_PREFIX, list_parsed
from pipeline.lake.left_out import leave_out
from pipeline.lake.manifest import (
    CELL_FILE,
    UNKNOWN_SIZE,
    Snapshot,
    bytes_digest,
    damaged_snapshot_error,
    latest_snapshot,
)
from pipeline.lake.scan import PARQUET_READ_ERRORS, polars_schema, scan_unchecked
from pipeline.lake.store import Store


class CellIndex(NamedTuple):
    """Committed cells of a lake; files that cannot be read are left out with a warning."""

    rows: pl.LazyFrame
    """Every row, with the columns of this version."""
    cells: pl.DataFrame
    """One row per cell: the key of its file, the columns that have one value per cell, the number of rows, the worst
    status of any row, and costs."""
    row_files: RowFiles | None = None
    """Temporary files that `rows` scans, if any; they are deleted when this reference is dropped."""


def load_cell_index(lake: Lake, files: Mapping[str, str] | None = None) -> CellIndex:
    """Load every committed cell once. A snapshot that lacks a column of this version is ignored until `compact` runs.

    Args:
        files: result of `lake.cell_files()`, if the caller has listed them already.

    Raises:
        LakeError: the snapshot cannot be read.
    """
    files = lake.cell_files() if files is None else files
    snapshot = latest_snapshot(lake.store)
    cached = load_snapshot_index(lake.store, snapshot) if snapshot else None
    return _merge_index(lake.store, files, cached) if cached else index_cell_files(lake.store, files)


def load_cells(lake: Lake, files: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Load only the `cells` of `load_cell_index`; the row files of the snapshot are not opened.

    Raises:
        LakeError: the index of the snapshot cannot be read.
    """
    files = lake.cell_files() if files is None else files
    snapshot = latest_snapshot(lake.store)
    cached = _current_columns(read_cell_file(lake.store, snapshot)) if snapshot else None
    if cached is None:
        return index_cell_files(lake.store, files).cells
    kept, new = _compare(cached, files)
    return pl.concat([kept, index_cell_files(lake.store, new).cells]) if new else kept


def index_cell_files(store: Store, files: Mapping[str, str]) -> CellIndex:
    """Index the cells of these files (cell id -> key) by reading every file; the snapshot is not used."""
    row_files = RowFiles() if len(files) > MAX_IN_MEMORY else None
    rows, cells = [], [empty_cells()]
    for chunk in iter_cell_chunks(store, files):
        row_files.append(chunk.rows) if row_files else rows.append(chunk.rows.lazy())
        cells.append(chunk.cells)
        _report_damaged(store, chunk.damaged)
    scan = scan_unchecked(row_files.paths) if row_files else pl.concat([scan_unchecked([]), *rows])
    return CellIndex(scan, pl.concat(cells).sort("cell_id"), row_files)


def _report_damaged(store: Store, damaged: Mapping[str, str]) -> None:
    """Warn about damaged files (key -> reason), except the files of quarantined cells."""
    if damaged:
        hidden = {name["cell"] for _, name in list_parsed(store, QUARANTINE_PREFIX)}
        leave_out(store.uri, {key: reason for key, reason in damaged.items() if Path(key).stem not in hidden})


def load_snapshot_index(store: Store, snapshot: Snapshot) -> CellIndex | None:
    """Load the index of the snapshot; return None if the snapshot lacks a column of this version.

    Raises:
        LakeError: a file of the snapshot is missing or damaged.
    """
    cells = _current_columns(read_cell_file(store, snapshot))
    sources = _open_parts(store, snapshot)
    key = snapshot.parts[0].key if snapshot.parts else snapshot.key
    try:
        columns = [set(pl.scan_parquet(source, glob=False).collect_schema()) for source in sources]  # type: ignore[arg-type]
    except PARQUET_READ_ERRORS as error:
        raise damaged_snapshot_error(store, key, " ".join(str(error).split())) from error
    is_current = all({*polars_schema()} <= found for found in columns)
    return CellIndex(scan_unchecked(sources), cells) if is_current and cells is not None else None


def _current_columns(cells: pl.DataFrame) -> pl.DataFrame | None:
    """Select the columns of this version from an index; return None if it lacks one of them."""
    columns = empty_cells().columns
    return cells.select(columns) if {*columns} <= {*cells.columns} else None


def _open_parts(store: Store, snapshot: Snapshot) -> Sequence[Path | bytes]:
    """Return the row files as paths or (object store) as bytes; raise LakeError if a size differs from the manifest."""
    sources = store.paths_or_bytes([part.key for part in snapshot.parts])
    for part, source in zip(snapshot.parts, sources, strict=True):
        try:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
        except OSError as error:
            raise damaged_snapshot_error(store, part.key, error.strerror or str(error)) from error
        if part.bytes not in (size, UNKNOWN_SIZE):
            raise damaged_snapshot_error(store, part.key, f"{size:,} bytes, not {part.bytes:,}")
    return sources


def read_cell_file(store: Store, snapshot: Snapshot) -> pl.DataFrame:
    """Read the snapshot's index: one row per cell; its column `part` has the key of the file with the cell's rows.

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
    """Update the snapshot's index: remove cells whose file no longer exists, add cells that are not in the snapshot."""
    kept, new = _compare(cached.cells, files)
    rows = cached.rows
    if kept.height < cached.cells.height:
        gone = cached.cells.join(kept, on="key", how="anti")["cell_id"]
        rows = rows.filter(~pl.col("cell_id").is_in(gone.implode()))
    if not new:
        return CellIndex(rows, kept)
    added = index_cell_files(store, new)
    return CellIndex(pl.concat([rows, added.rows]), pl.concat([kept, added.cells]), added.row_files)


def _compare(cached: pl.DataFrame, files: Mapping[str, str]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the cached cells whose files still exist, and the files (cell id -> key) of cells that are not cached."""
    cached_keys, current_keys = set(cached["key"]), set(files.values())
    gone = cached_keys - current_keys
    kept = cached.filter(~pl.col("key").is_in(gone)) if gone else cached
    return kept, {cell_id: key for cell_id, key in files.items() if key not in cached_keys}
