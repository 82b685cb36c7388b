"""Files that this package did not write give a two-line error or rows of their own cell, never rows of another."""

from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import lake as lakes
from pipeline.columns import column_names
from pipeline.errors import ShapelakeError
from pipeline.lake import Lake, to_table
from pipeline.lake.layout import CELLS_PREFIX
from pipeline.lake.manifest import CELL_FILE, LABEL_FILE, ROW_FILE
from pipeline.lake.schema import encode_parquet
from pipeline.lake.snapshot import compact
from tests.support import lake_rows
from tests.support.left_out_files import foreign_files, left_out_files

QUERY = "from layers order by cell_id, layer"
OWN = lake_rows.cell(lake_rows.checkpoint(1)).id
OTHER = lake_rows.cell(lake_rows.checkpoint(2)).id
SOUND = encode_parquet(to_table(lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(1))), {}))
FEW, MANY = 5, pytest.param(2000, marks=pytest.mark.slow)
CASES = pytest.mark.parametrize("cases", [FEW, MANY])


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path / "lake")
    for step in (1, 2):
        lake_rows.commit(lake, lake_rows.checkpoint(step))
    return lake


def rows(lake):
    return lakes.open_lake(lake.uri).query_frame(QUERY)


def answer(lake):
    """Return the rows, or None if the answer is an error, which must be a ShapelakeError in two lines."""
    with left_out_files():
        with suppress(ShapelakeError):
            return rows(lake)
        with pytest.raises(ShapelakeError) as caught:
            rows(lake)
    assert len(str(caught.value).splitlines()) == 2
    return None


@CASES
def test_a_truncated_file_is_always_left_out(lake, cases):
    path = lake.store.path(lake.cell_files()[OWN])

    @settings(max_examples=cases, deadline=None)
    @given(length=st.integers(0, len(SOUND) - 1))
    def holds(length):
        path.write_bytes(SOUND[:length])
        with left_out_files() as messages:
            assert set(rows(lake)["cell_id"]) == {OTHER}
        assert [OWN in message for message in messages] == [True]

    holds()


VALUES = st.one_of(
    st.lists(st.none() | st.integers(-(2**31), 2**31), min_size=3, max_size=3),
    st.lists(st.none() | st.floats(), min_size=3, max_size=3),
    st.lists(st.none() | st.text(max_size=4), min_size=3, max_size=3),
    st.lists(st.binary(max_size=4), min_size=3, max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=3, max_size=3),
    st.just([datetime(2026, 1, 1, tzinfo=UTC)] * 3),
    st.just([{"a": 1}] * 3),
    st.sampled_from([[OWN] * 3, [OTHER] * 3, [OWN, OWN, OTHER]]),
)
COLUMNS = st.dictionaries(st.sampled_from(column_names()) | st.text(max_size=8), VALUES, max_size=8)


@CASES
def test_a_file_of_another_schema_is_left_out_or_rows_of_its_own_cell(lake, cases):
    """Replace, drop or add columns of an intact cell; the rows of another intact cell do not change."""
    before = rows(lake).filter(cell_id=OTHER)
    sound = {
        name: [row[name] for row in lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(1)))] for name in column_names()
    }
    path = lake.store.path(lake.cell_files()[OWN])

    @settings(max_examples=cases, deadline=None)
    @given(replaced=COLUMNS, dropped=st.sets(st.sampled_from(column_names()), max_size=4))
    def holds(replaced, dropped):
        table = pa.table({name: values for name, values in (sound | replaced).items() if name not in dropped})
        pq.write_table(table, path)
        if (found := answer(lake)) is not None:
            assert found.filter(cell_id=OTHER).equals(before)
            assert set(found["cell_id"]) <= {OWN, OTHER}
            assert found.height <= 2 * lake_rows.LAYERS

    holds()


def test_a_cell_copied_to_the_name_of_another_is_named(lake):
    """The copy is complete and its checksum matches, but its name is wrong."""
    files = lake.cell_files()
    lake.store.path(files[OTHER]).write_bytes(lake.store.get(files[OWN]))
    with left_out_files() as messages:
        assert set(rows(lake)["cell_id"]) == {OWN}
    assert OTHER in messages[0]
    assert messages[0].endswith("its rows do not belong to its cell id")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20)
HOSTILE = st.sampled_from(
    ["*", "?", "[a]", "%2e%2e", "a b", "-rf", "~", "$HOME", "'; drop", "model_key=..", "\n", "{0}"]
)


@CASES
def test_a_file_of_any_name_is_ignored_or_named(lake, cases):
    """Names are used literally: not as a glob, a path out of the lake, or SQL."""
    before = rows(lake)

    @settings(max_examples=cases, deadline=None)
    @given(folder=NAMES | HOSTILE, name=NAMES | HOSTILE, suffix=st.sampled_from(["", ".parquet", ".json", ".tmp"]))
    def holds(folder, name, suffix):
        path = lake.store.root / CELLS_PREFIX / folder / f"{name}{suffix}"
        if {folder, path.name} & {".", ".."} or len(path.name.encode()) > 255:
            return
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(SOUND)
        with foreign_files() as messages:
            found = rows(lake)
        path.unlink()
        path.parent.rmdir()
        assert found.equals(before)
        assert len(messages) == path.name.endswith(".parquet")
        assert all(message.isprintable() for message in messages)

    holds()


def test_column_chunks_in_an_external_file_are_not_read(lake, tmp_path):
    """A Parquet footer may name another file for its column chunks."""
    secret = tmp_path / "secret.parquet"
    table = to_table(lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(1)), id_twonn=4.25), {})
    pq.write_table(table, secret)
    footer = pq.read_metadata(secret)
    footer.set_file_path(str(secret))
    data = BytesIO()
    footer.write_metadata_file(data)
    lake.store.path(lake.cell_files()[OWN]).write_bytes(data.getvalue())
    with left_out_files() as messages:
        assert 4.25 not in rows(lake)["id_twonn"].to_list()
    assert OWN in messages[0]


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 64), st.binary(max_size=16)), min_size=1, max_size=4)


@CASES
@pytest.mark.parametrize("name", [ROW_FILE, CELL_FILE, LABEL_FILE])
def test_a_mutated_snapshot_gives_rows_or_an_error(lake, name, cases):
    """Readers check the digests of cells and labels; a changed number in the rows file is found by `verify` only."""
    before = rows(lake)
    snapshot = compact(lake)
    assert snapshot
    path = lake.store.path(snapshot.parts[0].key if name == ROW_FILE else snapshot.file_key(name))
    data = path.read_bytes()

    @settings(max_examples=cases, deadline=None)
    @given(edits=EDITS)
    def holds(edits):
        changed = data
        for position, length, new in edits:
            start = int(position * len(changed))
            changed = changed[:start] + new + changed[start + length :]
        path.write_bytes(changed)
        found = answer(lake)
        assert found is None or name == ROW_FILE or (changed == data and found.equals(before))

    holds()
