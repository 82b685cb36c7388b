"""Odd files in a lake: pipes, links, devices, folders in place of files, and tiny files of millions of rows."""

import os
import shutil
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake import checksum
from pipeline.lake.schema import SMALL_FILE_OPTIONS, arrow_schema
from pipeline.lake.verify import verify_lake
from tests.support.damaged_lakes import KINDS, Ground, attempt, key_of_kind, layers, limited


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return Ground(tmp_path_factory.mktemp("ground"))


MANY = 60_000_000
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

    lake = ground.copy()
    shutil.rmtree(lake.store.root / name, ignore_errors=True)
    (lake.store.root / name).write_bytes(b"")
    with limited():
        attempt(lambda: layers(lake))
    assert name in {problem.key for problem in verify_lake(lake)}


def _encode(table: pa.Table, is_sealed: bool) -> bytes:
    sink = pa.BufferOutputStream()
    options = SMALL_FILE_OPTIONS | {"use_dictionary": True, "compression": "zstd"}
    with pq.ParquetWriter(sink, table.schema, **options) as w:
        if is_sealed:
            w.add_key_value_metadata({checksum.KEY: checksum.BLANK})
        w.write_table(table, row_group_size=table.num_rows)
    data = sink.getvalue().to_pybytes()
    return checksum.fill_checksum(data) if is_sealed else data


def _bomb(cell_id: str, form: str) -> pa.Table:
    """Rows of the right types, so that a reader decodes them unless it counts them first."""
    if form == "rows":
        ids = pa.DictionaryArray.from_arrays(_zeros(MANY, pa.int32()), [cell_id])
        return pa.table({"cell_id": ids, "layer": _zeros(MANY, arrow_schema().field("layer").type)})
    layer = pa.array([0], arrow_schema().field("layer").type)
    items = pa.ListArray.from_arrays(pa.array([0, MANY], pa.int32()), _zeros(MANY, pa.int32()))
    return pa.table({"cell_id": [cell_id], "layer": layer, "top_dims": items})


def _zeros(n: int, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, n, [None, pa.py_buffer(bytes(kind.bit_width // 8 * n))])


@pytest.fixture(scope="module")
def bombs(ground, tmp_path_factory):
    """Folder of the files, written by a process of its own, so that their size is not in the peak of this one."""
    folder = tmp_path_factory.mktemp("bombs")
    cell_id = Path(key_of_kind(ground.sound, "cell")).stem
    writer = get_context("spawn").Process(target=_write_bombs, args=(folder, cell_id))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    return folder


def _write_bombs(folder: Path, cell_id: str) -> None:
    for form in ("rows", "items"):
        for is_sealed in (False, True):
            (folder / f"{form} {is_sealed}").write_bytes(_encode(_bomb(cell_id, form), is_sealed))


@pytest.mark.parametrize("name", ["rows False", "rows True", "items False", "items True"])
def test_a_small_file_of_millions_of_values_is_not_decoded(ground, bombs, name):
    lake = ground.copy()
    key = key_of_kind(ground.sound, "cell")
    data = (bombs / name).read_bytes()
    assert len(data) < 1_000_000
    lake.store.path(key).write_bytes(data)
    assert key in {problem.key for problem in ground.check(lake, key, "cell")}
