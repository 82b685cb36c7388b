"""What the newest snapshot is, and which older ones nobody needs. Loads no frames: planning reads it too."""

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
SNAPSHOT_FILE_PATTERN = re.compile(
    rf"{SNAPSHOTS_PREFIX}/v\d+/{TIMESTAMP_PATTERN}-[0-9a-f]+(\.parquet|/[a-z]+\.(parquet|json))"
)
V1_SNAPSHOT_MARKER = b'"snapshots/v1/'


class Snapshot(StrictModel):
    """What `LATEST` says of the snapshot to read: three files in one folder."""

    key: Annotated[str, Field(pattern=f"^{SNAPSHOT_KEY_PATTERN}$")]
    digests: dict[str, str]
    """Of each file, by name."""
    cells: int
    rows: int
    bytes: int
    written_at: datetime
    columns: tuple[str, ...] = ()
    """Of its rows; none where it was written before this was noted."""

    def file_key(self, name: str) -> str:
        """The key of a file of it."""
        return f"{self.key}/{name}"


def latest_snapshot(store: Store) -> Snapshot | None:
    """The snapshot that `LATEST` names; None where there is none yet, or one of an older version.

    Raises:
        LakeError: a `LATEST` that is no pointer to a snapshot.
    """
    if not store.has(LATEST_KEY):
        return None
    said = store.get(LATEST_KEY)
    if V1_SNAPSHOT_MARKER in said:
        return None
    try:
        return Snapshot.model_validate_json(said)
    except ValidationError as error:
        raise damaged_snapshot_error(
            store, LATEST_KEY, f"no pointer to a snapshot ({error.errors()[0]['msg']})"
        ) from error


def damaged_snapshot_error(store: Store, key: str, found: str) -> LakeError:
    """The error of a snapshot that cannot be read; the cells are there to make another of."""
    return LakeError(f"read {key} of the lake {store.uri}", found, "Run shapelake compact")


def superseded_snapshot_keys(store: Store, before: datetime) -> list[str]:
    """Keys of the snapshots that `LATEST` had left behind by then, and of those whose writer was killed."""
    named = latest_snapshot(store)
    stamps = {
        key: found["stamp"] for key in store.list(SNAPSHOTS_PREFIX) if (found := SNAPSHOT_FILE_PATTERN.fullmatch(key))
    }
    others = [key for key in stamps if not named or not key.startswith(f"{named.key}/")]
    return [key for key in others if _superseded_at(stamps[key], stamps.values()) < before]


def bytes_digest(data: bytes) -> str:
    """What `LATEST` says of a file's bytes."""
    return blake2b(data, digest_size=16).hexdigest()


def _superseded_at(stamp: str, stamps: Iterable[str]) -> datetime:
    """When a snapshot was left behind: as the next one was written, or, where there is none, at once."""
    successor = min((other for other in stamps if other > stamp), default=stamp)
    return datetime.strptime(successor, TIMESTAMP_FORMAT).replace(tzinfo=UTC)
