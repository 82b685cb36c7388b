"""A lake in three sorted files, so that a reader opens these and not thousands. A cache of the cells and labels."""

from io import BytesIO
from uuid import uuid4

import polars as pl

from pipeline.errors import LakeError
from pipeline.lake.cell_index import PARQUET_READ_ERRORS, load_cell_index
from pipeline.lake.lake import Lake
from pipeline.lake.layout import TIMESTAMP_FORMAT
from pipeline.lake.manifest import (
    CELL_FILE,
    LABEL_FILE,
    LATEST_KEY,
    ROW_FILE,
    SNAPSHOTS_PREFIX,
    Snapshot,
    bytes_digest,
    latest_snapshot,
)
from pipeline.lake.records import utc_now
from pipeline.lake.scan import polars_schema
from pipeline.lake.store import Store
from pipeline.strict_model import canonical_json

SORT_COLUMNS = ("model", "corpus", "recipe", "layer", "step", "cell_id")
"""What queries ask for, first: a row group then holds few values of it, and the others are skipped."""
ROW_GROUP = 2**14
COMPACT_THRESHOLD = 1000
"""Files that a reader may have to open one by one: at about a millisecond for each, a second."""


def compact(lake: Lake) -> Snapshot | None:
    """Write a snapshot of every committed cell and label, then point `LATEST` at it; None for a lake without cells.

    Killed at any moment, `LATEST` names the old snapshot or the new one, and both are whole. Rows are those of the
    cells with the columns of today: what the views expand or hide is left to them. What the old snapshot holds is taken
    from it, if its bytes are those that were written; else it is forgotten.

    Raises:
        LakeError: a cell that cannot be read; `verify` lists them all.
    """
    _drop_corrupt_snapshot(lake.store)
    found = load_cell_index(lake)
    if found.cells.is_empty():
        return None
    frame = _sorted(found.rows, lake.uri)
    files = {
        ROW_FILE: _parquet(frame),
        CELL_FILE: _parquet(found.cells.sort("model", "cell_id", nulls_last=True)),
        LABEL_FILE: lake.encode_label_bundle(),
    }
    written_at = utc_now()
    snapshot = Snapshot(
        key=f"{SNAPSHOTS_PREFIX}/v2/{written_at:{TIMESTAMP_FORMAT}}-{uuid4().hex[:8]}",
        digests={name: bytes_digest(data) for name, data in files.items()},
        cells=found.cells.height,
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
    """`compact` where `LOOSE` cells or more came after the last one, or columns did, without which it is left aside.

    Raises:
        LakeError: as `compact`.
    """
    named = latest_snapshot(lake.store)
    if named and not {*polars_schema()} <= {*named.columns}:
        return compact(lake)
    return compact(lake) if len(lake.cell_files()) - (named.cells if named else 0) >= COMPACT_THRESHOLD else None


def find_corrupt_file(store: Store) -> str | None:
    """The key of the first file of the snapshot that `LATEST` names whose bytes are not those that were written.

    Raises:
        LakeError: a `LATEST` that is no pointer to a snapshot, or a file that is not there.
    """
    if (named := latest_snapshot(store)) is None:
        return None
    written = {named.file_key(name): digest for name, digest in named.digests.items()}
    return next((key for key, digest in written.items() if bytes_digest(store.get(key)) != digest), None)


def _drop_corrupt_snapshot(store: Store) -> None:
    try:
        sound = find_corrupt_file(store) is None
    except LakeError:
        sound = False
    if not sound:
        store.delete(LATEST_KEY)


def _sorted(rows: pl.LazyFrame, uri: str) -> pl.DataFrame:
    try:
        return rows.sort(SORT_COLUMNS, nulls_last=True).collect()
    except PARQUET_READ_ERRORS as error:
        raise LakeError(
            f"read the cells of the lake {uri}", " ".join(str(error).split()), "Run shapelake verify"
        ) from error


def _parquet(frame: pl.DataFrame) -> bytes:
    data = BytesIO()
    frame.write_parquet(data, compression="zstd", statistics=True, row_group_size=ROW_GROUP)
    return data.getvalue()
