"""Snapshots, which cache all cells and labels in three files so that readers need not open thousands; and their gc."""

from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from uuid import uuid4

import polars as pl

from pipeline.errors import LakeError
from pipeline.lake import manifest
from pipeline.lake.cell_index import collect_rows, load_cell_index
from pipeline.lake.lake import Lake
from pipeline.lake.layout import TIMESTAMP_FORMAT
from pipeline.lake.manifest import CELL_FILE, LABEL_FILE, LATEST_KEY, ROW_FILE, Snapshot, bytes_digest, latest_snapshot
from pipeline.lake.records import utc_now
from pipeline.lake.scan import polars_schema
from pipeline.lake.store import Store
from pipeline.strict_model import canonical_json

SORT_COLUMNS = ("model", "corpus", "recipe", "layer", "step", "cell_id")
"""Filter columns of typical queries first: each row group then holds few of their values, and most are skipped."""
ROW_GROUP = 2**14
COMPACT_THRESHOLD = 1000
"""Cells outside the snapshot that make a new one due: at about 1 ms per file, a reader needs 1 s for them."""
GC_GRACE = timedelta(days=1)


def compact(lake: Lake) -> Snapshot | None:
    """Write a snapshot of every committed cell and label, then point `LATEST` to it; None for a lake without cells.

    `LATEST` changes atomically: after a kill it names the old snapshot or the new one, and both are complete. The
    rows are those of the cells, with the current columns; the views expand labels and hide cells. Cells in the old
    snapshot are copied from it if its files match their digests; otherwise `LATEST` is deleted first.

    Raises:
        LakeError: a cell cannot be read; `verify` lists all of them.
    """
    _drop_corrupt_snapshot(lake.store)
    index = load_cell_index(lake)
    if index.cells.is_empty():
        return None
    frame = collect_rows(index.rows.sort(SORT_COLUMNS, nulls_last=True), lake.uri)
    cells = index.cells.sort("model", "cell_id", nulls_last=True)
    files = {ROW_FILE: _parquet(frame), CELL_FILE: _parquet(cells), LABEL_FILE: lake.encode_label_bundle()}
    written_at = utc_now()
    snapshot = Snapshot(
        key=f"{manifest.SNAPSHOTS_PREFIX}/v2/{written_at:{TIMESTAMP_FORMAT}}-{uuid4().hex[:8]}",
        digests={name: bytes_digest(data) for name, data in files.items()},
        cells=cells.height,
        rows=frame.height,
        bytes=sum(map(len, files.values())),
        written_at=written_at,
        columns=tuple(frame.columns),
    )
    for name, data in files.items():
        lake.store.put_new(snapshot.file_key(name), data)
    lake.store.put_or_replace(LATEST_KEY, canonical_json(snapshot.model_dump(mode="json")).encode())
    return snapshot


def compact_if_due(lake: Lake) -> Snapshot | None:
    """Compact if `COMPACT_THRESHOLD` or more cells, or any column, are newer than the snapshot; else return None.

    Raises:
        LakeError: as in `compact`.
    """
    latest = latest_snapshot(lake.store)
    if latest and not {*polars_schema()} <= {*latest.columns}:  # readers ignore a snapshot that lacks a column
        return compact(lake)
    return compact(lake) if len(lake.cell_files()) - (latest.cells if latest else 0) >= COMPACT_THRESHOLD else None


def collect_garbage(lake: Lake, grace: timedelta = GC_GRACE, *, dry_run: bool = True) -> list[str]:
    """Return the keys of stale staged files and superseded snapshots; delete them unless `dry_run`.

    Stale means unused for `grace`: a reader opened before that may lose its snapshot. Cells, labels, attempts,
    tombstones, recipes and runs are never deleted.
    """
    keys = lake.store.list_stale_staging(grace.total_seconds())
    keys += manifest.superseded_snapshot_keys(lake.store, utc_now() - grace)
    if not dry_run:
        for key in keys:
            lake.store.delete(key)
    return keys


def find_corrupt_file(store: Store) -> str | None:
    """Return the key of the first file of the newest snapshot that does not match its digest; None if all match.

    Raises:
        LakeError: `LATEST` cannot be parsed, or a file is missing.
    """
    if (latest := latest_snapshot(store)) is None:
        return None
    digests = {latest.file_key(name): digest for name, digest in latest.digests.items()}
    return next((key for key, digest in digests.items() if bytes_digest(store.get(key)) != digest), None)


def _drop_corrupt_snapshot(store: Store) -> None:
    with suppress(LakeError):
        if find_corrupt_file(store) is None:
            return
    store.delete(LATEST_KEY)


def _parquet(frame: pl.DataFrame) -> bytes:
    data = BytesIO()
    frame.write_parquet(data, compression="zstd", statistics=True, row_group_size=ROW_GROUP)
    return data.getvalue()
