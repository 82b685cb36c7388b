"""`verify` covers every kind of file of a lake, and reports whatever is none of its files."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.lake import Lake
from pipeline.lake.verify import verify_lake
from tests.support import damaged_lakes, lake_rows
from tests.support.damaged_lakes import KINDS, key_of_kind


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return damaged_lakes.make_lake(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def lake(sound, tmp_path):
    shutil.copytree(sound.uri, tmp_path / "lake")
    return Lake(tmp_path / "lake")


def problems(lake):
    return {problem.key: problem.found for problem in verify_lake(lake)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_emptied_file_of_any_kind_is_named(lake, kind):
    key = key_of_kind(lake, kind)
    lake.store.path(key).write_bytes(b"")
    assert [*problems(lake)] == [key]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("audit", lambda data: data.replace(b"lab/old", b"lab/odd")),
        ("v1 label", lambda data: data.replace(b'"step":1', b'"step":2')),
        ("v1 label", lambda data: data.replace(b'"seen_at":"2', b'"seen_at":"1')),
        ("label", lambda data: data.replace(b'"step":6', b'"step":8')),
        ("recipe", lambda data: data.replace(b'"version":1', b'"version":2')),
        ("recipe", lambda data: data.replace(b'"contexts":', b'"context":')),
        ("attempt", lambda data: data.replace(b"permanent", b"transient")),
        ("plan", lambda data: data[:-1]),
        ("plan", lambda data: b"[]"),
        ("progress", lambda data: b'{"run_id": "another", "when": "2026-01-01T00:00:00Z"}'),
        ("progress", lambda data: b'{"run_id": 1}'),
        ("lease", lambda data: b"\xff"),
        ("lease", lambda data: b"two words"),
        ("alert", lambda data: b'{"id": "y"}'),
        ("identity", lambda data: b'{"id": 1}'),
        ("columns", lambda data: data.replace(b"float64", b"float32", 1)),
        ("columns", lambda data: data.replace(b"name,", b"Name,", 1)),
        ("columns", lambda data: data[:-9]),
        ("manifest", lambda data: data.replace(b'"rows":', b'"rows": ')),
        ("snapshot rows", lambda data: data[:-1]),
    ],
)
def test_a_changed_record_is_named(lake, kind, change):
    key = key_of_kind(lake, kind)
    changed = change(lake.store.get(key))
    assert changed != lake.store.get(key)
    lake.store.path(key).write_bytes(changed)
    assert [*problems(lake)] == [key]


@pytest.mark.parametrize("part", [b"snapshots/v", b"Z-"])
def test_a_pointer_to_another_folder_is_named(lake, part):
    """One changed byte in the key of `LATEST` leaves valid digests of files in a folder that does not exist."""
    before, after = lake.store.get("LATEST").split(b'"key":"snapshots', 1)
    at = after.index(part[-2:]) + 2
    other = (
        after[:at] + (b"2" if part.endswith(b"v") else b"0" if after[at : at + 1] != b"0" else b"1") + after[at + 1 :]
    )
    lake.store.path("LATEST").write_bytes(before + b'"key":"snapshots' + other)
    assert "LATEST" in problems(lake)


def test_the_manifest_of_an_older_snapshot_is_checked(lake):
    key = min(key for key in lake.store.list("snapshots") if key.endswith("manifest.json"))
    lake.store.path(key).write_bytes(b"{}")
    assert [*problems(lake)] == [key]


def test_every_damaged_file_of_the_snapshot_is_named(lake):
    keys = {key_of_kind(lake, kind) for kind in ("snapshot cells", "snapshot labels", "snapshot rows")}
    for key in keys:
        lake.store.path(key).write_bytes(b"PAR1")
    assert {*problems(lake)} == keys


def test_an_index_record_needs_a_valid_name_and_its_cell(lake):
    cell, model = "a" * 32, "lab--small"
    known = Path(next(iter(lake.cell_files().values())))
    sound = f"index/v1/20260101T000000.000000Z-{known.stem}-{known.parent.name.removeprefix('model_key=')}"
    lost = f"index/v1/20260101T000000.000000Z-{cell}-{model}"
    no_time = f"index/v1/20269999T000000.000000Z-{cell}-{model}"
    for key in (sound, lost, no_time, "index/v1/notes"):
        lake.store.put_new(key, b"")
    found = problems(lake)
    assert {*found} == {lost, no_time, "index/v1/notes"}
    assert "the lake has no cells/v1/" in found[lost]


FOREIGN = [
    *("notes.txt", "cells/v1/._x.parquet", "cells/v2/x.parquet", "runs/x/plan.json.tmp", "runs/x/y/plan.json"),
    *("recipes/x.json", "leases/v1/x", "labels/v3/x.json", "snapshots/notes.txt", "_staging/x/y", ".DS_Store"),
]


@pytest.mark.parametrize("key", FOREIGN)
def test_a_foreign_file_is_named(lake, key):
    lake.store.put_new(key, b"")
    found = problems(lake)
    assert "not a" in found.pop(key)
    assert {*found} <= {"_staging/x"}


def test_unfinished_writes_are_no_problem(lake):
    lake.store.put_new("_staging/left", b"partial")
    assert problems(lake) == {}


@pytest.mark.parametrize("kind", ["cell", "label", "recipe", "pointer", "columns", "snapshot rows", "manifest"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_named_and_not_opened(lake, kind, make):
    path = lake.store.path(key := key_of_kind(lake, kind))
    path.unlink()
    make(path)
    assert key in problems(lake)


def test_folders_that_are_links_are_entered_as_by_readers(lake, tmp_path):
    cells = lake.store.root / "cells"
    cells.rename(tmp_path / "cells")
    cells.symlink_to(tmp_path / "cells")
    assert problems(lake) == {}
    key = key_of_kind(lake, "cell")
    lake.store.path(key).write_bytes(b"")
    assert [*problems(lake)] == [key]


def test_a_link_to_a_folder_is_not_entered(lake):
    (lake.store.root / "all").symlink_to("/")
    assert {*problems(lake)} == {"all"}


def test_a_column_twice_and_absent_required_columns_are_named(lake):
    from tests.lake.test_verify import changed

    table = changed()
    point = lake_rows.checkpoint(1)
    lake_rows.commit(lake, point)
    for odd in (table.append_column("layer", table["layer"]), table.drop_columns(["depth"]), table.select(["cell_id"])):
        key = damaged_lakes.write_table(lake, lake_rows.cell(point).id, odd)
        assert {*problems(lake)} <= {key}
