"""A lake in three sorted files, so that a reader opens these and not thousands. A cache of the cells and labels."""

from io import BytesIO
from uuid import uuid4

import polars as pl

from pipeline.errors import LakeError
from pipeline.lake.cell_index import UNREADABLE, contents
from pipeline.lake.lake import Lake
from pipeline.lake.layout import STAMP
from pipeline.lake.manifest import CELL_FILE, LABEL_FILE, LATEST, ROW_FILE, SNAPSHOTS, Snapshot, content_digest, latest
from pipeline.lake.records import now
from pipeline.lake.scan import schema
from pipeline.lake.store import Store
from pipeline.strict_model import canonical

ORDER = ("model", "corpus", "recipe", "layer", "step", "cell_id")
"""What queries ask for, first: a row group then holds few values of it, and the others are skipped."""
ROW_GROUP = 2**14
LOOSE = 1000
"""Files that a reader may have to open one by one: at about a millisecond for each, a second."""


def compact(lake: Lake) -> Snapshot | None:
    """Write a snapshot of every committed cell and label, then point `LATEST` at it; None for a lake without cells.

    Killed at any moment, `LATEST` names the old snapshot or the new one, and both are whole. Rows are those of the
    cells with the columns of today: what the views expand or hide is left to them. What the old snapshot holds is taken
    from it, if its bytes are those that were written; else it is forgotten.

    Raises:
        LakeError: a cell that cannot be read; `verify` lists them all.
    """
    _forget_unless_sound(lake.store)
    found = contents(lake)
    if found.cells.is_empty():
        return None
    frame = _sorted(found.rows, lake.uri)
    files = {
        ROW_FILE: _parquet(frame),
        CELL_FILE: _parquet(found.cells.sort("model", "cell_id", nulls_last=True)),
        LABEL_FILE: lake.bundled_labels(),
    }
    written_at = now()
    snapshot = Snapshot(
        key=f"{SNAPSHOTS}/v2/{written_at:{STAMP}}-{uuid4().hex[:8]}",
        digests={name: content_digest(data) for name, data in files.items()},
        cells=found.cells.height,
        rows=frame.height,
        bytes=sum(map(len, files.values())),
        written_at=written_at,
        columns=tuple(frame.columns),
    )
    for name, data in files.items():
        lake.store.put_new(snapshot.file(name), data)
    lake.store.put_pointer(LATEST, canonical(snapshot.model_dump(mode="json")).encode())
    return snapshot


def compact_if_loose(lake: Lake) -> Snapshot | None:
    """`compact` where `LOOSE` cells or more came after the last one, or columns did, without which it is left aside.

    Raises:
        LakeError: as `compact`.
    """
    named = latest(lake.store)
    if named and not {*schema()} <= {*named.columns}:
        return compact(lake)
    return compact(lake) if len(lake.cells()) - (named.cells if named else 0) >= LOOSE else None


def wrong(store: Store) -> str | None:
    """The key of the first file of the snapshot that `LATEST` names whose bytes are not those that were written.

    Raises:
        LakeError: a `LATEST` that is no pointer to a snapshot, or a file that is not there.
    """
    if (named := latest(store)) is None:
        return None
    written = {named.file(name): digest for name, digest in named.digests.items()}
    return next((key for key, digest in written.items() if content_digest(store.get(key)) != digest), None)


def _forget_unless_sound(store: Store) -> None:
    try:
        sound = wrong(store) is None
    except LakeError:
        sound = False
    if not sound:
        store.delete(LATEST)


def _sorted(rows: pl.LazyFrame, uri: str) -> pl.DataFrame:
    try:
        return rows.sort(ORDER, nulls_last=True).collect()
    except UNREADABLE as error:
        raise LakeError(
            f"read the cells of the lake {uri}", " ".join(str(error).split()), "Run shapelake verify"
        ) from error


def _parquet(frame: pl.DataFrame) -> bytes:
    data = BytesIO()
    frame.write_parquet(data, compression="zstd", statistics=True, row_group_size=ROW_GROUP)
    return data.getvalue()
