"""Index records of a lake in an object store. Their names tell readers which cells are newer than the snapshot.

A record is an empty file `index/v1/TIME-CELL-MODEL_KEY`, written after the commit of the cell. Readers list the records
since shortly before the newest snapshot. If a writer is killed between commit and record, readers miss the cell until
`compact`, or the next run that wants the cell, finds it: both check the cell files themselves.
"""

import re
from datetime import timedelta

from pipeline.lake import manifest
from pipeline.lake.layout import CELL_ID_PATTERN, INDEX_PREFIX, TIMESTAMP_FORMAT, TIMESTAMP_PATTERN, cell_key
from pipeline.lake.records import utc_now
from pipeline.lake.store import Store

CLOCK_TOLERANCE = timedelta(minutes=10)
"""Largest clock difference between writers at which readers still find every record."""
RECORD_PATTERN = re.compile(rf"{INDEX_PREFIX}/{TIMESTAMP_PATTERN}-{CELL_ID_PATTERN}-(?P<model_key>[^/]+)")


def record_in_index(store: Store, cell_id: str, model_key: str) -> None:
    """Write the index record of a committed cell, if the store lists slowly; in other stores readers list the cells."""
    if store.lists_slowly:
        store.create_if_absent(f"{INDEX_PREFIX}/{utc_now():{TIMESTAMP_FORMAT}}-{cell_id}-{model_key}", b"")


def find_indexed_cells(store: Store) -> dict[str, str] | None:
    """Map each cell id in the snapshot and in newer records to the key of the cell's file.

    Return None if index records do not cover the lake; the caller must then list all cell files.

    Raises:
        LakeError: the snapshot cannot be read.
    """
    snapshot = manifest.latest_snapshot(store) if store.lists_slowly else None
    if snapshot is None or snapshot.indexed_since is None:
        return None
    from pipeline.lake.cell_index import read_cell_file  # loads polars

    files = dict(read_cell_file(store, snapshot).select("cell_id", "key").iter_rows())
    since = f"{INDEX_PREFIX}/{snapshot.indexed_since - CLOCK_TOLERANCE:{TIMESTAMP_FORMAT}}"
    for key in store.list(INDEX_PREFIX, after=since):
        if record := RECORD_PATTERN.fullmatch(key):
            files.setdefault(record["cell"], cell_key(record["model_key"], record["cell"]))
    return files
