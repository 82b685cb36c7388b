"""Snapshots in parts: unchanged parts are shared, small ones merged, and memory does not grow with the lake."""

import duckdb
import polars as pl
import pytest

from pipeline import lake as lakes
from pipeline.lake import Lake, snapshot_parts
from pipeline.lake.manifest import Part, latest_snapshot
from pipeline.lake.snapshot import compact
from pipeline.lake.snapshot_parts import PART_CELLS, SMALL_PART_CELLS, SORT_COLUMNS, choose_parts
from pipeline.lake.verify import verify_lake
from tests.support import lake_rows
from tests.support.left_out_files import left_out_files

QUERY = "from layers order by model, cell_id, layer"


@pytest.fixture
def lake(tmp_path, monkeypatch):
    """Lake whose full parts have four cells."""
    monkeypatch.setattr(snapshot_parts, "PART_CELLS", 4)
    monkeypatch.setattr(snapshot_parts, "SMALL_PART_CELLS", 1)
    return Lake(tmp_path / "lake")


def commit(lake, model, steps):
    for step in steps:
        lake_rows.commit(lake, lake_rows.checkpoint(step, model=model))


def rows(lake):
    return lakes.open_lake(lake.uri).query_frame(QUERY)


def sizes(lake):
    return [part.cells for part in latest_snapshot(lake.store).parts]


def test_the_parts_together_have_each_row_once_sorted(lake):
    for model in ("lab/b", "lab/a", "lab/c"):
        commit(lake, model, range(3))
    before = rows(lake)
    assert compact(lake)
    assert sizes(lake) == [4, 4, 1]
    assert rows(lake).equals(before)
    for part in latest_snapshot(lake.store).parts:
        frame = pl.read_parquet(lake.store.path(part.key))
        assert frame.height == part.rows
        assert frame.equals(frame.sort(SORT_COLUMNS, nulls_last=True))
    assert verify_lake(lake) == []


def test_a_sort_that_runs_out_of_memory_is_repeated_with_the_next_limit(lake, monkeypatch):
    commit(lake, "lab/a", range(3))
    before = rows(lake)
    monkeypatch.setattr(snapshot_parts, "MEMORY_LIMITS", ("1MB",))
    with pytest.raises(duckdb.OutOfMemoryException):
        compact(lake)
    assert latest_snapshot(lake.store) is None
    monkeypatch.setattr(snapshot_parts, "MEMORY_LIMITS", ("1MB", "400MB"))
    assert compact(lake)
    assert sizes(lake) == [3]
    assert rows(lake).equals(before)


def test_full_parts_are_not_written_again(lake):
    commit(lake, "lab/a", range(9))
    compact(lake)
    first = set(latest_snapshot(lake.store).parts)
    commit(lake, "lab/b", range(2))
    compact(lake)
    second = set(latest_snapshot(lake.store).parts)
    assert {part.cells for part in first & second} == {4}
    assert len(first & second) == 2
    assert sum(part.cells for part in second - first) == 3, "the small part and the new cells"
    compact(lake)
    assert set(latest_snapshot(lake.store).parts) == second, "nothing is new"


def test_a_part_of_which_a_cell_is_gone_or_moved_is_written_again(lake):
    commit(lake, "lab/a", range(8))
    compact(lake)
    gone = lake_rows.cell(lake_rows.checkpoint(3, model="lab/a")).id
    lake.store.delete(lake.cell_files()[gone])
    expected = rows(lake)
    compact(lake)
    assert sorted(sizes(lake)) == [3, 4]
    assert rows(lake).equals(expected)
    assert gone not in expected["cell_id"]


def test_a_damaged_cell_is_left_out_of_the_snapshot_and_comes_back_when_it_is_restored(lake):
    commit(lake, "lab/a", range(3))
    whole = rows(lake)
    path = lake.store.path(sorted(lake.cell_files().values())[0])
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with left_out_files() as messages:
        assert compact(lake).cells == 2
    assert path.name in messages[0]
    path.write_bytes(data)
    assert rows(lake).equals(whole)
    assert compact(lake).cells == 3


def part(cells):
    return Part(key=f"snapshots/v3/20260101T000000.000000Z-00000000/layers-{cells}.parquet", digest="", cells=cells,
                rows=cells, bytes=cells)  # fmt: skip


def test_a_million_cells_that_come_in_thousands_are_rewritten_six_times_and_have_at_most_32_parts():
    parts, rewritten, most = [], 0, 0
    for _ in range(1000):
        chosen = choose_parts(parts, set(), 1000)
        total = 1000 + sum(one.cells for one in chosen)
        parts = [one for one in parts if one not in chosen]
        parts += [part(min(PART_CELLS, total - start)) for start in range(0, total, PART_CELLS)]
        rewritten, most = rewritten + total, max(most, len(parts))
    assert sum(one.cells for one in parts) == 1_000_000
    assert most <= 32
    assert rewritten <= 7 * 1_000_000


def test_many_tiny_compactions_leave_few_parts():
    parts = []
    for _ in range(SMALL_PART_CELLS):
        chosen = choose_parts(parts, set(), 1)
        parts = [one for one in parts if one not in chosen] + [part(1 + sum(one.cells for one in chosen))]
    assert len(parts) == 1
