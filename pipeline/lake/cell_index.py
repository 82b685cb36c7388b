"""What a lake has committed: its rows, and one row per cell. From the snapshot, and from the files that came later."""

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
    *(
        name
        for name in column_names("keys", "model", "checkpoint", "text")
        if name not in ("duplicate_of", "superseded")
    ),
    *("device", "run_id", "written_at", "attempt", "batch_tokens"),
)
"""Columns that are the same in every row of a cell."""
CELL_COST_COLUMNS = ("load_s", "forward_s", "total_s", "peak_device_mib", "peak_host_mib", "download_bytes")
LAYER_COST_COLUMNS = ("knn_s", "spectrum_s")
PARQUET_READ_ERRORS = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars may raise for a file that is not what it says it is."""


class CellIndex(NamedTuple):
    """The committed cells."""

    rows: pl.LazyFrame
    """Every row, with the columns of today."""
    cells: pl.DataFrame
    """One row per cell: the key of its file, what all its rows share, their number, worst status and costs."""


def load_cell_index(lake: Lake, files: Mapping[str, str] | None = None) -> CellIndex:
    """Every committed cell, each once. A snapshot without a column of today is left aside until the next `compact`.

    Args:
        files: `lake.cells()`, of one who has listed them before.

    Raises:
        LakeError: a file that cannot be read, or that holds other rows than those of its cell.
    """
    files = lake.cell_files() if files is None else files
    snapshot = latest_snapshot(lake.store)
    held = snapshot and _load_snapshot_index(lake.store, snapshot)
    return _merge_index(lake.store, files, held) if held else index_cell_files(lake.store, files)


def index_cell_files(store: Store, files: Mapping[str, str]) -> CellIndex:
    """The cells of these files, given by cell id, from nothing but the files."""
    found = scan_cells(store, files.values())
    try:
        cells = aggregate_cells(found).collect()
    except PARQUET_READ_ERRORS as error:
        said = " ".join(str(error).split())
        raise LakeError(f"read the cells of the lake {store.uri}", said, "Run shapelake verify") from error
    if foreign := files.keys() ^ set(cells["cell_id"]):
        _raise_unreadable(store, files, foreign, "not the rows of its own cell")
    if twice := cells.filter(pl.col("rows") != pl.col("layers"))["cell_id"].to_list():
        _raise_unreadable(store, files, twice, "a layer has two rows")
    keys = cells["cell_id"].replace_strict(files, return_dtype=pl.String)
    return CellIndex(found, cells.drop("layers").insert_column(0, keys.alias("key")))


def _raise_unreadable(store: Store, files: Mapping[str, str], cell_ids: Iterable[str], found: str) -> None:
    key = min((files[cell_id] for cell_id in cell_ids if cell_id in files), default="the cells")
    raise LakeError(
        f"read {key} of the lake {store.uri}", found, "Run shapelake verify; mend it, or move it out of the lake"
    )


def _load_snapshot_index(store: Store, snapshot: Snapshot) -> CellIndex | None:
    """What the snapshot holds; None where a column of today is not in it."""
    row_key, cell_key = snapshot.file_key(ROW_FILE), snapshot.file_key(CELL_FILE)
    data = store.get(cell_key)
    if bytes_digest(data) != snapshot.digests.get(CELL_FILE):
        raise damaged_snapshot_error(store, cell_key, "changed since it was written")
    sources = store.paths_or_bytes([row_key])
    try:
        cells, columns = pl.read_parquet(BytesIO(data)), pl.scan_parquet(list(sources)).collect_schema()  # type: ignore[arg-type]
    except PARQUET_READ_ERRORS as error:
        raise damaged_snapshot_error(store, row_key, " ".join(str(error).split())) from error
    wanted = aggregate_cells(pl.LazyFrame(schema=polars_schema())).drop("layers").collect_schema()
    return (
        CellIndex(scan_unchecked(sources), cells)
        if {*polars_schema()} <= {*columns} and {*wanted} <= {*cells.columns}
        else None
    )


def _merge_index(store: Store, files: Mapping[str, str], held: CellIndex) -> CellIndex:
    """Of what the snapshot holds, the cells whose files are still there, and those that it lacks."""
    known, there = set(held.cells["key"]), set(files.values())
    found, cells = held
    if known - there:
        gone = pl.col("key").is_in(known - there)
        found = found.filter(~pl.col("cell_id").is_in(cells.filter(gone)["cell_id"].implode()))
        cells = cells.filter(~gone)
    if there <= known:
        return CellIndex(found, cells)
    late = index_cell_files(store, {cell_id: key for cell_id, key in files.items() if key not in known})
    return CellIndex(pl.concat([found, late.rows]), pl.concat([cells, late.cells.select(cells.columns)]))


def aggregate_cells(found: pl.LazyFrame) -> pl.LazyFrame:
    """One row per cell, with the number of its distinct layers."""
    status = pl.col("status").fill_null("")
    worst = pl.when(~status.is_in(["ok", "degenerate"]).all()).then(pl.lit("nonfinite"))
    worst = (
        worst.when((status == "degenerate").any()).then(pl.lit("degenerate")).otherwise(pl.lit("ok")).alias("status")
    )
    spent = [
        pl.when(pl.col(name).count() > 0).then(pl.col(name).cast(pl.Float64).sum()).alias(name)
        for name in LAYER_COST_COLUMNS
    ]
    shared = [pl.col(name).first() for name in CELL_COLUMNS if name != "cell_id"]
    counts = [pl.len().cast(pl.Int64).alias("rows"), pl.col("layer").n_unique().cast(pl.Int64).alias("layers")]
    dear = [pl.col(name).max() for name in CELL_COST_COLUMNS]
    return found.group_by("cell_id").agg(*shared, *counts, worst, *dear, *spent).sort("cell_id")
