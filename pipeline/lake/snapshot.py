"""Compaction and garbage collection of snapshots, which cache all cells and labels in a few files for readers."""

from contextlib import suppress
from datetime import datetime, timedelta
from io import BytesIO
from uuid import uuid4

import polars as pl

from pipeline.errors import LakeError
from pipeline.lake import manifest
from pipeline.lake.cell_chunks import empty_cells
from pipeline.lake.cell_index import read_cell_file
from pipeline.lake.lake import Lake
from pipeline.lake.layout import TIMESTAMP_FORMAT
from pipeline.lake.manifest import CELL_FILE, LABEL_FILE, LATEST_KEY, MANIFEST_FILE, Part, Snapshot, latest_snapshot
from pipeline.lake.records import utc_now
from pipeline.lake.scan import polars_schema
from pipeline.lake.snapshot_parts import ROW_GROUP, choose_parts, divide_cells, file_digest, write_part
from pipeline.lake.store import Store
from pipeline.strict_model import canonical_json

COMPACT_THRESHOLD = 1000
"""Number of cells outside the snapshot at which a new snapshot is due: reading their files takes about 1 s."""
GC_GRACE = timedelta(days=1)
"""Time for which a staged file or a superseded snapshot is kept."""


def compact(lake: Lake) -> Snapshot | None:
    """Write a snapshot of every committed cell and label, then point `LATEST` to it; return None if there are no cells.

    Row files that need no change are shared with the previous snapshot. At most PART_CELLS cells are rewritten at a
    time, which takes about 1 GB of memory. `LATEST` changes atomically: after a kill it names the old snapshot or the
    new one, and both are complete. Rows have the columns of this version. Labels and tombstones are not applied here,
    but by readers. Unreadable cells are left out with a warning. If the old snapshot is damaged, `LATEST` is deleted
    first.

    Raises:
        LakeError: the lake cannot be listed or written.
    """
    began = utc_now()
    _drop_corrupt_snapshot(lake.store)
    before, known = _usable_snapshot(lake.store)
    files = lake.list_cell_files()
    gone = known.filter(~pl.col("key").is_in(sorted(files.values())))
    kept = known.join(gone, on="key", how="anti")
    kept_keys = set(kept["key"])
    new = {cell_id: key for cell_id, key in files.items() if key not in kept_keys}
    old_parts = before.parts if before else ()
    rewritten = choose_parts(old_parts, set(gone["part"]), len(new))
    folder = f"{manifest.SNAPSHOTS_PREFIX}/v3/{began:{TIMESTAMP_FORMAT}}-{uuid4().hex[:8]}"
    is_rewritten = pl.col("part").is_in([part.key for part in rewritten])
    parts = [part for part in old_parts if part not in rewritten]
    index = [kept.filter(~is_rewritten)]
    sources = lake.store.paths_or_bytes([part.key for part in rewritten])
    for number, contents in enumerate(divide_cells(new, kept.filter(is_rewritten))):
        if written := write_part(lake.store, contents, sources, f"{folder}/layers-{number}.parquet"):
            parts.append(written[0])
            index.append(written[1])
    if not parts:
        return None
    cells = pl.concat(index, how="diagonal").sort("model", "cell_id", nulls_last=True)
    return _publish(lake, folder, parts, cells, began)


def _publish(lake: Lake, folder: str, parts: list[Part], cells: pl.DataFrame, began: datetime) -> Snapshot:
    """Write index, labels and manifest of a snapshot whose parts exist, and point `LATEST` to it."""
    files = {CELL_FILE: _parquet(cells), LABEL_FILE: lake.encode_label_bundle()}
    snapshot = Snapshot(
        key=folder,
        parts=tuple(sorted(parts, key=lambda part: part.key)),
        digests={name: manifest.bytes_digest(data) for name, data in files.items()},
        bytes=sum(map(len, files.values())) + sum(part.bytes for part in parts),
        written_at=utc_now(),
        indexed_since=began,
        columns=tuple(polars_schema()),
    )
    content = canonical_json(snapshot.model_dump(mode="json")).encode()
    for name, data in {**files, MANIFEST_FILE: content}.items():
        lake.store.put_new(snapshot.file_key(name), data)
    lake.store.put_or_replace(LATEST_KEY, content)
    return snapshot


def is_compaction_due(lake: Lake) -> bool:
    """Return True if the snapshot lacks `COMPACT_THRESHOLD` cells or more, or any column of this version.

    Raises:
        LakeError: the lake cannot be listed, or the snapshot cannot be read.
    """
    latest = latest_snapshot(lake.store)
    if latest and not {*polars_schema()} <= {*latest.columns}:  # readers ignore a snapshot that lacks a column
        return True
    return len(lake.cell_files()) - (latest.cells if latest else 0) >= COMPACT_THRESHOLD


def collect_garbage(lake: Lake, grace: timedelta = GC_GRACE, *, dry_run: bool = True) -> list[str]:
    """Return the keys of staged files and snapshot files unused for `grace`; delete them unless `dry_run`.

    A reader that has been open for longer than `grace` may lose its snapshot. Cells, similarity records, labels,
    attempts, tombstones, recipes and runs are never deleted.
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
    return next((key for key, digest in latest.files.items() if digest_of_key(store, key) != digest), None)


def digest_of_key(store: Store, key: str) -> str:
    """Return the digest of a file of a snapshot; raise LakeError if it cannot be read."""
    (source,) = store.paths_or_bytes([key])
    try:
        return manifest.bytes_digest(source) if isinstance(source, bytes) else file_digest(source)
    except OSError as error:
        raise manifest.damaged_snapshot_error(store, key, error.strerror or str(error)) from error


def _drop_corrupt_snapshot(store: Store) -> None:
    with suppress(LakeError):
        if find_corrupt_file(store) is None:
            return
    store.delete(LATEST_KEY)


def _usable_snapshot(store: Store) -> tuple[Snapshot | None, pl.DataFrame]:
    """Return the newest snapshot and its index.

    If there is none, or if it lacks a column of this version, return None and an empty index.
    """
    latest = latest_snapshot(store)
    columns = [*empty_cells().columns, "part"]
    if latest and {*polars_schema()} <= {*latest.columns}:
        cells = read_cell_file(store, latest)
        if {*columns} <= {*cells.columns}:
            return latest, cells.select(columns)
    return None, empty_cells().with_columns(part=pl.lit(None, pl.String))


def _parquet(frame: pl.DataFrame) -> bytes:
    data = BytesIO()
    frame.write_parquet(data, compression="zstd", statistics=True, row_group_size=ROW_GROUP)
    return data.getvalue()
