"""Snapshots: same answers as from the cells, complete at every moment, and deleted only once superseded."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pipeline import lake as lakes
from pipeline.errors import LakeError
from pipeline.lake import Lake, Tombstone, records, snapshot
from pipeline.lake.cell_index import load_cell_index, load_cells
from pipeline.lake.layout import LABELS_PREFIX, TIMESTAMP_FORMAT
from pipeline.lake.manifest import (
    CELL_FILE,
    LABEL_FILE,
    LATEST_KEY,
    MANIFEST_FILE,
    ROW_FILE,
    SNAPSHOTS_PREFIX,
    latest_snapshot,
)
from pipeline.lake.snapshot import collect_garbage, compact
from pipeline.lake.snapshot_parts import SORT_COLUMNS
from pipeline.lake.store import STAGING
from pipeline.lake.verify import verify_lake
from tests.support import killed_writer, lake_rows


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def key_of(compacted, name):
    """Key of a file of a snapshot with one part."""
    return compacted.parts[0].key if name == ROW_FILE else compacted.file_key(name)


def row_key(compacted):
    return key_of(compacted, ROW_FILE)


def views(lake):
    """Return all rows of the three views in a fixed order, as JSON."""
    reader = lakes.open_lake(lake.uri)
    keys = {
        "layers": "model, revision, recipe, weights_digest, cell_id, layer",
        "checkpoints": "model, revision, weights_digest",
        "cells": "cell_id",
    }
    return {view: reader.query_frame(f"from {view} order by {key}").write_json() for view, key in keys.items()}


def views_without_snapshot(lake):
    """Return the views for a reader without the snapshot."""
    pointer = lake.store.get(LATEST_KEY)
    lake.store.delete(LATEST_KEY)
    try:
        return views(lake)
    finally:
        lake.store.put_or_replace(LATEST_KEY, pointer)


def a_varied_lake(lake):
    """Commit two models, shared weights, two algorithms, a re-upload, a tombstone, an unknown step and a lost label."""
    shared = [
        lake_rows.checkpoint(1, weights="w"),
        lake_rows.checkpoint(8, weights="w", model="lab/other", family="New"),
    ]
    again = [lake_rows.checkpoint(2, weights=word) for word in "ab"]
    lake.record_labels([*shared, again[0], lake_rows.checkpoint(3), lake_rows.checkpoint(None)])
    lake.record_labels([again[1]])
    for point in (shared[0], *again, lake_rows.checkpoint(3), lake_rows.checkpoint(None), lake_rows.checkpoint(99)):
        lake_rows.commit(lake, point)
    lake_rows.commit(lake, shared[0], cell_id="a" * 32, algorithm=9, id_twonn=9.0)
    lake.quarantine(Tombstone(cell_id=lake_rows.cell(lake_rows.checkpoint(3)).id, reason="wrong", by="a person"))


def test_a_lake_without_cells_has_no_snapshot(lake):
    assert compact(lake) is None
    assert latest_snapshot(lake.store) is None
    assert lake.store.top_names() is None


def test_the_views_are_the_same_with_and_without_a_snapshot_also_after_later_writes(lake):
    a_varied_lake(lake)
    compacted = compact(lake)
    assert compacted
    assert (compacted.cells, compacted.rows) == (7, 7 * lake_rows.LAYERS)
    assert views(lake) == views_without_snapshot(lake)
    lake_rows.commit(lake, lake_rows.checkpoint(4))
    lake_rows.commit(lake, lake_rows.checkpoint(1, weights="w"), cell_id="b" * 32, algorithm=10, id_twonn=10.0)
    lake.record_labels([lake_rows.checkpoint(5, weights="w")])
    lake.quarantine(Tombstone(cell_id="b" * 32, reason="wrong", by="a person"))
    lake.release(lake_rows.cell(lake_rows.checkpoint(3)).id)
    assert views(lake) == views_without_snapshot(lake)
    assert verify_lake(lake) == []


def test_a_snapshot_answers_without_its_cells_files(lake):
    """The cell and label files are listed but never opened."""
    a_varied_lake(lake)
    before = views(lake)
    compact(lake)
    for key in (*lake.cell_files().values(), *lake.store.list(LABELS_PREFIX)):
        lake.store.path(key).write_bytes(b"")
    assert views(lake) == before


def test_a_deleted_cell_or_one_whose_file_changed_its_key_is_not_read_from_the_snapshot(lake):
    point = lake_rows.checkpoint(1)
    for one in (point, lake_rows.checkpoint(2)):
        lake_rows.commit(lake, one)
    compact(lake)
    lake.store.delete(lake.cell_files()[lake_rows.cell(lake_rows.checkpoint(2)).id])
    twin = lake_rows.checkpoint(1, model="aaa/twin", weights="lab/small 1")
    lake_rows.commit(lake, twin, cell_id=lake_rows.cell(point).id)
    assert lakes.open_lake(lake.uri).query_frame("select distinct model, step from layers").rows() == [("aaa/twin", 1)]
    assert views(lake) == views_without_snapshot(lake)


def test_it_is_sorted_in_row_groups_with_statistics_and_reads_without_this_package(lake):
    a_varied_lake(lake)
    compacted = compact(lake)
    assert compacted
    frame = pl.read_parquet(lake.store.path(row_key(compacted)))
    assert frame.equals(frame.sort(SORT_COLUMNS, nulls_last=True))
    assert set(pl.read_parquet(lake.store.path(compacted.file_key(CELL_FILE)))["key"]) == set(
        lake.cell_files().values()
    )
    files = [path for path in lake.store.path(compacted.key).iterdir() if path.name != MANIFEST_FILE]
    assert compacted.bytes == sum(path.stat().st_size for path in files)


def test_a_snapshot_of_an_older_schema_is_ignored(lake):
    a_varied_lake(lake)
    compacted = compact(lake)
    assert compacted
    path = lake.store.path(row_key(compacted))
    pl.read_parquet(path).drop("id_ks").write_parquet(path)
    (part,) = compacted.parts
    older = part.model_copy(update={"bytes": path.stat().st_size})
    pointer = compacted.model_copy(update={"parts": (older,)})
    lake.store.put_or_replace(LATEST_KEY, pointer.model_dump_json().encode())
    assert views(lake) == views_without_snapshot(lake)
    assert load_cell_index(lake).rows.collect()["id_ks"].null_count() == 0


@pytest.mark.parametrize("pointer", [b"", b"{}", b'{"key": "../../etc/passwd"}', b"snapshots/v1/x.parquet"])
def test_an_invalid_pointer_is_named(lake, pointer):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    compact(lake)
    lake.store.put_or_replace(LATEST_KEY, pointer)
    with pytest.raises(LakeError, match=LATEST_KEY):
        lakes.open_lake(lake.uri)
    assert [problem.key for problem in verify_lake(lake)] == [LATEST_KEY]
    assert compact(lake), "compact repairs the pointer"
    assert verify_lake(lake) == []


@pytest.mark.parametrize("file", [ROW_FILE, CELL_FILE, LABEL_FILE])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1 not PAR1")])
def test_a_missing_or_damaged_snapshot_is_named_and_repaired(lake, file, damage):
    a_varied_lake(lake)
    before = views(lake)
    compacted = compact(lake)
    assert compacted
    damage(lake.store.path(key_of(compacted, file)))
    with pytest.raises(LakeError, match=compacted.key):
        lakes.open_lake(lake.uri)
    assert len(verify_lake(lake)) == 1
    assert compact(Lake(lake.uri))
    assert views(lake) == before
    assert verify_lake(lake) == []


def test_one_changed_byte_of_a_snapshot_is_not_copied_into_the_next(lake):
    """The byte is in the rows file, whose digest readers do not check."""
    a_varied_lake(lake)
    before = views(lake)
    compacted = compact(lake)
    assert compacted
    path = lake.store.path(row_key(compacted))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert [problem.key for problem in verify_lake(lake)] == [row_key(compacted)]
    assert compact(lake)
    assert views(lake) == before


OLD = "snapshots/v1/20260101T000000.000000Z-" + "0" * 32 + ".parquet"


def test_a_v1_snapshot_is_ignored_and_deleted_after_the_next_one(lake):
    a_varied_lake(lake)
    before = views(lake)
    lake.store.put_new(OLD, b"PAR1 rows alone PAR1")
    lake.store.put_or_replace(LATEST_KEY, f'{{"key": "{OLD}", "cells": 1, "rows": 1, "bytes": 1}}'.encode())
    assert views(lake) == before
    assert verify_lake(lake) == []
    assert compact(lake)
    assert views(lake) == before
    assert collect_garbage(lake, timedelta(0), dry_run=False) == [OLD]


class Killed(BaseException):
    """Simulates SIGKILL between two steps; the tests of the store kill within a step."""


@pytest.mark.parametrize("step", ["put_new", "put_or_replace"])
def test_killed_before_a_step_the_old_snapshot_stays_and_the_next_compact_succeeds(lake, monkeypatch, step):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    old = compact(lake)
    lake_rows.commit(lake, lake_rows.checkpoint(2))

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(lake.store), step, die)
        with pytest.raises(Killed):
            compact(lake)
    assert latest_snapshot(lake.store) == old
    assert views(lake) == views_without_snapshot(lake)
    assert verify_lake(lake) == []
    new = compact(lake)
    assert new
    assert (new.cells, latest_snapshot(lake.store)) == (2, new)


@pytest.mark.slow
def test_killed_before_any_of_its_system_calls_the_lake_reads_the_same(lake):
    a_varied_lake(lake)
    before = views(lake)
    killed_writer.moments("compact", Path(lake.uri))
    assert views(lake) == before == views_without_snapshot(lake)
    assert verify_lake(lake) == []
    collect_garbage(lake, timedelta(0), dry_run=False)
    assert [lake.store.list(STAGING), len(lake.store.list(SNAPSHOTS_PREFIX))] == [[], 3]


def test_gc_deletes_superseded_files_after_the_grace_period_and_nothing_else(lake, monkeypatch):
    """Three snapshots an hour apart, one whose writer was killed, and a stale staged file."""
    a_varied_lake(lake)
    start, snapshots = records.utc_now(), []
    for hour in (3, 2, 1):
        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "utc_now", lambda hour=hour: start - timedelta(hours=hour))
            snapshots.append(compact(lake))
        lake_rows.commit(lake, lake_rows.checkpoint(100 + hour))
    dead = f"{SNAPSHOTS_PREFIX}/v2/{start - timedelta(minutes=150):{TIMESTAMP_FORMAT}}-{'0' * 8}/layers.parquet"
    lake.store.put_new(dead, b"")
    lake.store.put_new(f"{SNAPSHOTS_PREFIX}/notes.txt", b"")
    (Path(lake.uri) / STAGING / "left").write_bytes(b"partial")
    before = {path for path in Path(lake.uri).rglob("*") if path.is_file()}
    assert collect_garbage(lake) == [], "the default grace is a day"
    first, second = (sorted([*each.files, each.file_key(MANIFEST_FILE)]) for each in snapshots[:2])
    assert collect_garbage(lake, timedelta(minutes=110)) == [dead, *first]
    assert {path for path in Path(lake.uri).rglob("*") if path.is_file()} == before, "a dry run deletes nothing"
    deleted = collect_garbage(lake, timedelta(0), dry_run=False)
    assert deleted == [f"{STAGING}/left", dead, *first, *second]
    after = {path for path in Path(lake.uri).rglob("*") if path.is_file()}
    assert after == before - {lake.store.path(key) for key in deleted}
    assert latest_snapshot(lake.store) == snapshots[2]
    assert [problem.key for problem in verify_lake(lake)] == [f"{SNAPSHOTS_PREFIX}/notes.txt"]


def test_status_and_plan_need_no_row_file(lake):
    a_varied_lake(lake)
    before, index = lakes.lake_status(lake), load_cell_index(lake).cells.sort("cell_id")
    compacted = compact(lake)
    assert compacted
    lake.store.delete(row_key(compacted))
    assert lakes.lake_status(lake) == before
    assert load_cells(lake).sort("cell_id").equals(index)
    lake_rows.commit(lake, lake_rows.checkpoint(4))
    lake.store.delete(lake.cell_files()[lake_rows.cell(lake_rows.checkpoint(99)).id])
    assert set(load_cells(lake)["key"]) == set(lake.cell_files().values())


@pytest.mark.parametrize("change", [lambda data: data + b"PAR1", lambda data: data[:-1], lambda data: b""])
def test_a_row_file_of_another_size_is_not_read(lake, change):
    a_varied_lake(lake)
    compacted = compact(lake)
    assert compacted
    path = lake.store.path(row_key(compacted))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(LakeError, match=r"bytes, not [\d,]+\.\nRun shapelake compact"):
        lakes.open_lake(lake.uri)
    assert row_key(compacted) in {problem.key for problem in verify_lake(lake)}
    assert compact(lake) != compacted
    assert views(lake) == views_without_snapshot(lake)
