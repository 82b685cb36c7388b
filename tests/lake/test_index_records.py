"""Lakes in an object store: requests of each command, and cells found without listing all names."""

from collections import Counter
from datetime import timedelta

import pytest

from pipeline import lake as lakes
from pipeline.lake import Lake, index_records, lake_status
from pipeline.lake.layout import INDEX_PREFIX
from pipeline.lake.records import utc_now
from pipeline.lake.snapshot import compact
from tests.support import fake_s3, lake_rows

URI = "s3://bucket/lake"
COUNT = "select count(distinct cell_id) n from layers"


@pytest.fixture
def requests(monkeypatch):
    """Counter of the requests to an S3 server, by method."""
    counter: Counter[str] = Counter()

    def counting(environ, start, app):
        counter[environ["REQUEST_METHOD"]] += 1
        return app(environ, start)

    with fake_s3.serve(counting) as env:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        yield counter


def commit(steps):
    lake = Lake(URI)
    for step in steps:
        lake_rows.commit(lake, lake_rows.checkpoint(step))


def count():
    return lakes.open_lake(URI).query_frame(COUNT)["n"][0]


def test_commands_on_a_compacted_lake_take_few_requests(requests):
    commit(range(20))
    lake = Lake(URI)
    lake.record_labels([lake_rows.checkpoint(step) for step in range(20)])
    assert compact(lake)
    commit(range(20, 23))
    for command in (count, lambda: lake_status(Lake(URI)), lambda: Lake(URI).cell_files()):
        requests.clear()
        command()
        assert requests.total() <= 50, requests
    assert count() == 23


def test_the_names_of_compacted_cells_are_not_listed(requests, monkeypatch):
    commit(range(5))
    assert compact(Lake(URI))
    monkeypatch.setattr(Lake, "list_cell_files", lambda lake: pytest.fail("all cells were listed"))
    commit([7])
    assert len(Lake(URI).cell_files()) == 6


def test_a_cell_without_a_record_is_found_by_the_next_compact_or_its_next_writer(requests):
    commit(range(3))
    compact(Lake(URI))
    commit([5, 6])
    store = Lake(URI).store
    for key in store.list(INDEX_PREFIX):
        store.delete(key)
    assert len(Lake(URI).cell_files()) == 3
    made = lake_rows.cell(lake_rows.checkpoint(5))
    table = lakes.to_table(lake_rows.rows(made), {"recipe": "{}"})
    assert not Lake(URI).commit(made.id, made.checkpoint.model_key, table), "it was there, and has a record now"
    assert len(Lake(URI).cell_files()) == 4
    assert compact(Lake(URI)).cells == 5


def test_the_record_of_a_writer_whose_clock_is_behind_is_seen(requests, monkeypatch):
    commit([0])
    compact(Lake(URI))
    monkeypatch.setattr(index_records, "utc_now", lambda: utc_now() - timedelta(minutes=9))
    commit([1])
    assert len(Lake(URI).cell_files()) == 2


def test_a_folder_needs_no_records(tmp_path):
    lake = Lake(tmp_path / "lake")
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    assert lake.store.list(INDEX_PREFIX) == []
