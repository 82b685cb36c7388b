"""Pointer to the newest snapshot, and the superseded ones. Loads no data frames, because planning reads it too."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated

from pydantic import Field, ValidationError

from pipeline.errors import LakeError
from pipeline.lake.layout import TIMESTAMP_FORMAT, TIMESTAMP_PATTERN
from pipeline.lake.store import Store
from pipeline.strict_model import StrictModel

SNAPSHOTS_PREFIX, LATEST_KEY = "snapshots", "LATEST"
ROW_FILE, CELL_FILE, LABEL_FILE = "layers.parquet", "cells.parquet", "labels.json"
SNAPSHOT_KEY_PATTERN = r"snapshots/v2/\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}"
SNAPSHOT_FILE_PATTERN = re.compile(rf"snapshots/v\d+/{TIMESTAMP_PATTERN}-[0-9a-f]+(\.parquet|/[a-z]+\.(parquet|json))")
V1_SNAPSHOT_MARKER = b'"snapshots/v1/'


class Snapshot(StrictModel):
    """Content of `LATEST`: the snapshot to read, which is three files in one folder."""

    key: Annotated[str, Field(pattern=f"^{SNAPSHOT_KEY_PATTERN}$")]
    digests: dict[str, str]
    """Digest of each file, by file name."""
    cells: int
    rows: int
    bytes: int
    written_at: datetime
    columns: tuple[str, ...] = ()
    """Columns of its rows; empty in snapshots of versions that did not record them."""

    def file_key(self, name: str) -> str:
        """Return the key of one of its files."""
        return f"{self.key}/{name}"


def latest_snapshot(store: Store) -> Snapshot | None:
    """Return the snapshot that `LATEST` names; None if there is none, or only one of format v1.

    Raises:
        LakeError: `LATEST` cannot be parsed.
    """
    if not store.has(LATEST_KEY):
        return None
    content = store.get(LATEST_KEY)
    if V1_SNAPSHOT_MARKER in content:
        return None
    try:
        return Snapshot.model_validate_json(content)
    except ValidationError as error:
        found = f"not a pointer to a snapshot ({error.errors()[0]['msg']})"
        raise damaged_snapshot_error(store, LATEST_KEY, found) from error


def damaged_snapshot_error(store: Store, key: str, found: str) -> LakeError:
    """Build the error for an unreadable snapshot, which `compact` can rebuild from the cells."""
    return LakeError(f"read {key} of the lake {store.uri}", found, f"Run shapelake compact --lake {store.uri}")


def superseded_snapshot_keys(store: Store, before: datetime) -> list[str]:
    """Return the keys of snapshots superseded before `before`, and of snapshots whose writer was killed by then."""
    latest = latest_snapshot(store)
    names = {key: SNAPSHOT_FILE_PATTERN.fullmatch(key) for key in store.list(SNAPSHOTS_PREFIX)}
    stamps = {key: name["stamp"] for key, name in names.items() if name}
    others = [key for key in stamps if not latest or not key.startswith(f"{latest.key}/")]
    return [key for key in others if _superseded_at(stamps[key], stamps.values()) < before]


def bytes_digest(data: bytes) -> str:
    """Return the digest of a file as `LATEST` records it."""
    return blake2b(data, digest_size=16).hexdigest()


def _superseded_at(stamp: str, stamps: Iterable[str]) -> datetime:
    """Return the time at which the next snapshot was written; the snapshot's own time if there is none."""
    successor = min((other for other in stamps if other > stamp), default=stamp)
    return datetime.strptime(successor, TIMESTAMP_FORMAT).replace(tzinfo=UTC)
