"""Manifests of snapshots, and the file `LATEST`, which names the newest snapshot.

A snapshot is a cache of all cells and labels. It consists of row files, which may be shared with earlier snapshots, and
of one folder with the index of its cells, its labels and a copy of its manifest. This module loads no data-frame
library, because planning uses it too.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated

from pydantic import Field, ValidationError

from pipeline.errors import LakeError
from pipeline.lake.layout import TIMESTAMP_FORMAT, TIMESTAMP_PATTERN
from pipeline.lake.left_out import leave_out
from pipeline.lake.store import Store
from pipeline.strict_model import StrictModel

SNAPSHOTS_PREFIX, LATEST_KEY = "snapshots", "LATEST"
ROW_FILE, CELL_FILE, LABEL_FILE, MANIFEST_FILE = "layers.parquet", "cells.parquet", "labels.json", "manifest.json"
FOLDER_PATTERN = r"snapshots/v[23]/\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}"
SNAPSHOT_FILE_PATTERN = re.compile(
    rf"snapshots/v\d+/{TIMESTAMP_PATTERN}-[0-9a-f]+(\.parquet|/[a-z]+(-\d+)?\.(parquet|json))"
)
UNKNOWN_SIZE = 0
"""Value of `Part.bytes` if the manifest states only the total size of all files."""
V1_SNAPSHOT_MARKER = b'"snapshots/v1/'


class Part(StrictModel):
    """One row file of a snapshot, which has the rows of some of its cells in sorted order."""

    key: Annotated[str, Field(pattern=rf"^{FOLDER_PATTERN}/layers(-\d+)?\.parquet$")]
    digest: str
    cells: int
    rows: int
    bytes: int


class Snapshot(StrictModel):
    """Manifest of a snapshot. `LATEST` contains the manifest of the snapshot that readers use."""

    key: Annotated[str, Field(pattern=f"^{FOLDER_PATTERN}$")]
    parts: tuple[Part, ...]
    digests: dict[str, str]
    """Maps the names CELL_FILE and LABEL_FILE to the digests of these files."""
    bytes: int
    """Total size of the files of the snapshot in bytes, without the manifest."""
    written_at: datetime
    indexed_since: datetime | None = None
    """Time at which its compaction began. Every cell with an older index record is in the snapshot. None = readers must
    list all cells, because index records cannot be used."""
    columns: tuple[str, ...] = ()
    """Names of the columns of its rows; empty if the version that wrote the snapshot did not record them."""

    @property
    def cells(self) -> int:
        return sum(part.cells for part in self.parts)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> dict[str, str]:
        """Maps the key of each file of the snapshot, except the manifest, to its digest."""
        return {part.key: part.digest for part in self.parts} | {self.file_key(n): d for n, d in self.digests.items()}

    def file_key(self, name: str) -> str:
        """Return the key of the file `name` in the snapshot's own folder."""
        return f"{self.key}/{name}"


class _SnapshotV2(StrictModel):
    """`LATEST` of earlier versions: three files in one folder."""

    key: Annotated[str, Field(pattern=f"^{FOLDER_PATTERN}$")]
    digests: dict[str, str]
    cells: int
    rows: int
    bytes: int
    written_at: datetime
    columns: tuple[str, ...] = ()

    def as_current(self) -> Snapshot:
        digests, key = dict(self.digests), f"{self.key}/{ROW_FILE}"
        part = Part(key=key, digest=digests.pop(ROW_FILE, ""), cells=self.cells, rows=self.rows, bytes=UNKNOWN_SIZE)
        return Snapshot(
            key=self.key,
            parts=(part,),
            digests=digests,
            bytes=self.bytes,
            written_at=self.written_at,
            columns=self.columns,
        )


def latest_snapshot(store: Store) -> Snapshot | None:
    """Return the snapshot that `LATEST` names; None if there is no snapshot, or only one of format v1.

    Raises:
        LakeError: `LATEST` cannot be parsed.
    """
    if not store.has(LATEST_KEY):
        return None
    content = store.get(LATEST_KEY)
    if V1_SNAPSHOT_MARKER in content:
        return None
    try:
        return parse_snapshot(content)
    except ValidationError as error:
        found = f"not a pointer to a snapshot ({error.errors()[0]['msg']})"
        raise damaged_snapshot_error(store, LATEST_KEY, found) from error


def parse_snapshot(content: bytes) -> Snapshot:
    """Parse the content of `LATEST` or of a manifest; raise ValidationError if it is neither."""
    if b'"parts"' in content:
        return Snapshot.model_validate_json(content)
    return _SnapshotV2.model_validate_json(content).as_current()


def damaged_snapshot_error(store: Store, key: str, found: str) -> LakeError:
    """Build the error for an unreadable snapshot, which `compact` can rebuild from the cells."""
    return LakeError(f"read {key} of the lake {store.uri}", found, f"Run shapelake compact --lake {store.uri}")


def superseded_snapshot_keys(store: Store, cutoff: datetime) -> list[str]:
    """Return the keys of the snapshot files that can be deleted.

    A file can be deleted if the newest snapshot does not use it, and if the last snapshot that used it was superseded
    before `cutoff`. A file that a killed writer left, and that no manifest names, is taken as a snapshot of its own.
    """
    latest = latest_snapshot(store)
    names = {key: SNAPSHOT_FILE_PATTERN.fullmatch(key) for key in store.list(SNAPSHOTS_PREFIX)}
    stamps = {key: name["stamp"] for key, name in names.items() if name and _is_time(name["stamp"])}
    used = set(latest.files) | {latest.file_key(MANIFEST_FILE)} if latest else set[str]()
    last_use = _last_uses(store, stamps)
    return [key for key in stamps if key not in used and _superseded_at(last_use[key], stamps) < cutoff]


def _last_uses(store: Store, stamps: dict[str, str]) -> dict[str, str]:
    """Map each file to the time of the newest snapshot that uses it, or to its own time if no manifest names it.

    Args:
        stamps: time in the name of each snapshot file, by key.
    """
    last_use = dict(stamps)
    for key in sorted(key for key in stamps if key.endswith(f"/{MANIFEST_FILE}")):
        for used in _files_used_by(store, key, stamps):
            last_use[used] = max(last_use.get(used, ""), stamps[key])
    return last_use


def _files_used_by(store: Store, key: str, stamps: dict[str, str]) -> Iterable[str]:
    """Return the keys of the files that a manifest names.

    If the manifest is damaged, warn, and return every file that it could name: those that are not newer.
    """
    data = store.get_or_reason(key)
    try:
        return parse_snapshot(data if isinstance(data, bytes) else b"").files
    except ValidationError:
        leave_out(store.uri, {key: data if isinstance(data, str) else "not the manifest of a snapshot"})
        return [other for other, stamp in stamps.items() if stamp <= stamps[key]]


def bytes_digest(data: bytes) -> str:
    """Return the digest of a file as `LATEST` records it."""
    return blake2b(data, digest_size=16).hexdigest()


def _superseded_at(stamp: str, stamps: dict[str, str]) -> datetime:
    """Return the time of the first snapshot after the time `stamp`; `stamp` itself if no snapshot is newer."""
    successor = min((other for other in stamps.values() if other > stamp), default=stamp)
    return datetime.strptime(successor, TIMESTAMP_FORMAT).replace(tzinfo=UTC)


def _is_time(stamp: str) -> bool:
    """Return True if the digits of a name are a time."""
    try:
        return bool(datetime.strptime(stamp, TIMESTAMP_FORMAT))
    except ValueError:
        return False
