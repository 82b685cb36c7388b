"""One sorted file of all cells, so that a query opens one file and not thousands. A cache: cells stay the truth."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from io import BytesIO
from typing import Annotated

import polars as pl
from pydantic import Field, ValidationError

from pipeline.errors import LakeError
from pipeline.lake.lake import CELLS, STAMP, Lake
from pipeline.lake.records import now
from pipeline.lake.scan import rows, scan, schema
from pipeline.noun import Noun, canonical

SNAPSHOTS, LATEST = "snapshots/v1", "LATEST"
NAME = rf"{SNAPSHOTS}/(?P<stamp>\d{{8}}T\d{{6}}\.\d{{6}}Z)-(?P<digest>[0-9a-f]{{32}})\.parquet"
ORDER = ("model", "corpus", "recipe", "layer", "step", "cell_id")
"""What queries ask for, first: a row group then holds few values of it, and the others are skipped."""
ROW_GROUP = 2**14
KEY = re.compile(rf"{CELLS}/model_key=(.*)/([0-9a-f]{{32}})\.parquet")


class Snapshot(Noun):
    """What `LATEST` says of the snapshot to read."""

    key: Annotated[str, Field(pattern=f"^{NAME.replace('?P<stamp>', '').replace('?P<digest>', '')}$")]
    cells: int
    rows: int
    bytes: int
    written_at: datetime


def compact(lake: Lake) -> Snapshot | None:
    """Write a snapshot of every committed cell, then point `LATEST` at it; None for a lake without cells.

    Killed at any moment, `LATEST` names the old snapshot or the new one, and both are whole. Rows are those of the
    cells with the columns of today: what the views expand or hide is left to them.

    Raises:
        LakeError: a cell that cannot be read; `verify` lists them all.
    """
    files = lake.cells()
    if not files:
        return None
    frame = _sorted(lake, files)
    data = BytesIO()
    frame.write_parquet(data, compression="zstd", statistics=True, row_group_size=ROW_GROUP)
    written_at = now()
    key = f"{SNAPSHOTS}/{written_at:{STAMP}}-{content_digest(data.getvalue())}.parquet"
    snapshot = Snapshot(key=key, cells=len(files), rows=frame.height, bytes=data.tell(), written_at=written_at)
    lake.store.put_new(key, data.getvalue())
    lake.store.put_pointer(LATEST, canonical(snapshot.model_dump(mode="json")).encode())
    return snapshot


def measured(lake: Lake) -> pl.LazyFrame:
    """Every row of every committed cell: from the snapshot, and from its own file where it came later.

    A snapshot of an older version, which lacks a column of today, is left aside until the next `compact`.
    """
    files = list(lake.cells().values())
    snapshot = latest(lake)
    if snapshot is None:
        return scan(lake.store, files)
    sources = lake.store.sources([snapshot.key])
    try:
        return _merged(lake, files, rows(sources), pl.scan_parquet(list(sources)))  # type: ignore[arg-type]
    except (OSError, pl.exceptions.PolarsError) as error:
        found = " ".join(str(error).split())
        raise LakeError(f"read {snapshot.key} of the lake {lake.uri}", found, "Run shapelake compact") from error


def latest(lake: Lake) -> Snapshot | None:
    """The snapshot that `LATEST` names; None where there is none yet.

    Raises:
        LakeError: a `LATEST` that is no pointer to a snapshot.
    """
    if not lake.store.has(LATEST):
        return None
    try:
        return Snapshot.model_validate_json(lake.store.get(LATEST))
    except ValidationError as error:
        found = f"no pointer to a snapshot ({error.errors()[0]['msg']})"
        raise LakeError(f"read {LATEST} of the lake {lake.uri}", found, "Run shapelake compact") from error


def superseded(lake: Lake, before: datetime) -> list[str]:
    """Keys of the snapshots that `LATEST` had left behind by then, and of those whose writer was killed."""
    named = latest(lake)
    stamps = {key: found["stamp"] for key in lake.store.list(SNAPSHOTS) if (found := re.fullmatch(NAME, key))}
    others = [key for key in stamps if not named or key != named.key]
    return [key for key in others if _left(stamps[key], stamps.values()) < before]


def content_digest(data: bytes) -> str:
    """What a snapshot's name says of its bytes."""
    return blake2b(data, digest_size=16).hexdigest()


def _sorted(lake: Lake, files: dict[str, str]) -> pl.DataFrame:
    """All rows with their `model_key`, by which the file of each is known."""
    keys = pl.LazyFrame({"cell_id": list(files), "model_key": [_model_key(key) for key in files.values()]})
    whole = scan(lake.store, files.values()).join(keys, on="cell_id", how="left")
    return whole.sort(ORDER, nulls_last=True).collect()


def _merged(lake: Lake, files: list[str], held: pl.LazyFrame, raw: pl.LazyFrame) -> pl.LazyFrame:
    if not {*schema(), "model_key"} <= set(raw.collect_schema()):
        return scan(lake.store, files)
    keys = raw.select("model_key", "cell_id").unique().collect().rows()
    known = {f"{CELLS}/model_key={model_key}/{cell_id}.parquet": cell_id for model_key, cell_id in keys}
    if gone := [known[key] for key in known.keys() - set(files)]:
        held = held.filter(~pl.col("cell_id").is_in(gone))
    fresh = [key for key in files if key not in known]
    return pl.concat([held, scan(lake.store, fresh)]) if fresh else held


def _left(stamp: str, stamps: Iterable[str]) -> datetime:
    """When a snapshot was left behind: as the next one was written, or, where there is none, at once."""
    successor = min((other for other in stamps if other > stamp), default=stamp)
    return datetime.strptime(successor, STAMP).replace(tzinfo=UTC)


def _model_key(key: str) -> str:
    found = KEY.fullmatch(key)
    assert found, key
    return found[1]
