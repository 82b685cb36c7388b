"""Odd files in a lake: pipes, links, devices, folders in place of files, and tiny files of millions of rows."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake import checksum
from pipeline.lake.schema import SMALL_FILE_OPTIONS
from tests.support.damaged_lakes import KINDS, Ground, key_of_kind


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return Ground(tmp_path_factory.mktemp("ground"))


MAKERS = {
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "folder": os.mkdir,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("odd", MAKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_place_of_a_file(ground, kind, odd):
    lake = ground.copy()
    path = lake.store.path(key := key_of_kind(ground.sound, kind))
    path.unlink()
    MAKERS[odd](path)
    assert key in {problem.key for problem in ground.check(lake, key, "audit" if "label" in kind else kind)}


def test_a_link_to_a_cell_outside_the_lake_is_not_followed(ground):
    lake = ground.copy()
    path = lake.store.path(key := key_of_kind(ground.sound, "cell"))
    outside = Path(lake.uri).parent / "outside.parquet"
    path.rename(outside)
    path.symlink_to(outside)
    assert key in {problem.key for problem in ground.check(lake, key, "cell")}


@pytest.mark.parametrize("name", ["cells/v1/model_key=x/._x.parquet", "notes.txt", "snapshots/v3/x", "_staging/x/y"])
def test_a_foreign_file(ground, name):
    lake = ground.copy()
    path = lake.store.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ground.contents["cell"])
    for folder in (path, path.parent):
        os.utime(folder, (0, 0))
    assert name in {problem.key for problem in ground.check(lake, name, "foreign")}


@pytest.mark.parametrize("name", ["cells", "runs", "snapshots", "index", "quarantine", "_staging"])
def test_a_file_in_place_of_a_folder_of_the_lake(ground, name):
    import shutil

    from tests.support.damaged_lakes import attempt, layers, limited

    lake = ground.copy()
    shutil.rmtree(lake.store.root / name, ignore_errors=True)
    (lake.store.root / name).write_bytes(b"")
    with limited():
        attempt(lambda: layers(lake))
    from pipeline.lake.verify import verify_lake

    assert name in {problem.key for problem in verify_lake(lake)}


def _encode(table: pa.Table, is_sealed: bool) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", **SMALL_FILE_OPTIONS | {"use_dictionary": True}) as w:
        if is_sealed:
            w.add_key_value_metadata({checksum.KEY: checksum.BLANK})
        w.write_table(table, row_group_size=table.num_rows)
    data = sink.getvalue().to_pybytes()
    return checksum.fill_checksum(data) if is_sealed else data


def _bomb(cell_id: str, form: str) -> pa.Table:
    if form == "rows":
        n = 60_000_000
        ids = pa.DictionaryArray.from_arrays(pa.array(bytes(4 * n), pa.int32()) if False else _zeros(n), [cell_id])
        return pa.table({"cell_id": ids, "layer": _zeros(n)})
    n = 60_000_000
    values = pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), _zeros(n))
    return pa.table({"cell_id": [cell_id], "layer": pa.array([0], pa.int32()), "top_dims": values})


def _zeros(n: int) -> pa.Array:
    return pa.Array.from_buffers(pa.int32(), n, [None, pa.py_buffer(bytes(4 * n))])


BOMBS: dict[tuple[str, bool], bytes] = {}


@pytest.mark.parametrize("is_sealed", [False, True], ids=["no checksum", "checksum"])
@pytest.mark.parametrize("form", ["rows", "items"])
def test_a_small_file_of_millions_of_values_is_not_decoded(ground, form, is_sealed):
    lake = ground.copy()
    key = key_of_kind(ground.sound, "cell")
    data = _encode(_bomb(Path(key).stem, form), is_sealed)
    assert len(data) < 1_000_000
    lake.store.path(key).write_bytes(data)
    assert key in {problem.key for problem in ground.check(lake, key, "cell")}
