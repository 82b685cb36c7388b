"""`verify` reports every defect and nothing else; no damaged or hostile file is read as a number."""

import re
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import lake as lakes
from pipeline.columns import RANGE_BY_COLUMN, RANGE_BY_UNIT, UNBOUNDED_COLUMNS, all_columns, column_range
from pipeline.lake import Lake, Tombstone, checksum, to_table
from pipeline.lake.layout import CELLS_PREFIX
from pipeline.lake.scan import find_damage
from pipeline.lake.schema import encode_parquet
from pipeline.lake.verify import verify_lake
from tests.support import lake_rows
from tests.support.left_out_files import left_out_files


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path / "lake")
    point = lake_rows.checkpoint(1)
    lake.record_labels([point])
    lake_rows.commit(lake, point)
    return lake


def only_key(lake):
    (key,) = lake.cell_files().values()
    return key


def rewrite(lake, table):
    """Replace the file of the cell by one without a checksum."""
    data = BytesIO()
    pq.write_table(table.replace_schema_metadata(None), data)
    lake.store.put_or_replace(only_key(lake), data.getvalue())


def found(lake):
    return [problem.found for problem in verify_lake(lake)]


def test_a_sound_lake_and_an_empty_one_have_no_problems(lake, tmp_path):
    assert verify_lake(lake) == []
    assert verify_lake(Lake(tmp_path / "none")) == []


NUMBERS = [c for c in all_columns() if "int" in c.type or "float" in c.type]


def test_every_number_has_a_range_or_is_unbounded_and_every_range_has_a_column():
    assert {column.name for column in NUMBERS if column_range(column) is None} == UNBOUNDED_COLUMNS
    assert set(RANGE_BY_UNIT) <= {column.unit for column in all_columns()}
    assert set(RANGE_BY_COLUMN) <= {column.name for column in all_columns()}


@pytest.mark.parametrize("column", [c for c in NUMBERS if column_range(c)], ids=lambda column: column.name)
def test_a_value_beyond_its_range_is_found(lake, column):
    bounds = column_range(column)
    values = [-1] if bounds.low >= -0.5 else [-2]
    values += [2] if bounds.high < 2 else []
    for value in values:
        wrong = [value] if column.type.startswith("list") else value
        table = lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(1)))
        table[1] |= {column.name: wrong}
        rewrite(lake, to_table(table, {}) if column.name != "schema_version" else _typed(table))
        problems = found(lake)
        assert any(re.search(rf"{column.name} = {value}(\.0)?$", problem) for problem in problems), problems


def _typed(rows):
    from pipeline.lake.schema import arrow_schema

    return pa.Table.from_pylist(rows, schema=arrow_schema())


def changed(**changes):
    """Return the rows with values that `to_table` would refuse."""
    rows = lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(1)))
    rows[1] |= changes
    return _typed(rows)


@pytest.mark.parametrize(
    ("table", "fact"),
    [
        (changed(anisotropy=float("nan")), "layer 1: anisotropy = nan"),
        (changed(anisotropy=float("inf")), "layer 1: anisotropy = inf"),
        (changed(id_twonn=0.0), "layer 1: id_twonn = 0.0"),
        (changed(id_twonn=None), r"layer 1: null .*: id_twonn$"),
        (changed(corpus=None), r"layer 1: null .*: corpus$"),
        (changed(state="head"), "layer 1: state = 'head'"),
        (changed(status="fine"), "layer 1: status = 'fine'"),
        (changed(flags=["oops"]), "layer 1: unknown flag 'oops'"),
        (changed(cell_id="f" * 32), "f" * 32),
        (changed(model="lab/large"), "lab--large, lab--small"),
        (changed(layer=0), "a layer has two rows"),
        (changed().slice(0, 0), "no rows"),
        (changed().set_column(0, "cell_id", pa.array([1, 2, 3])), "types: cell_id is int64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_violation_of_the_schema_or_the_name_is_found(lake, table, fact):
    rewrite(lake, table)
    assert any(re.search(fact, problem) for problem in found(lake)), found(lake)


def test_rows_of_an_older_version_with_fewer_columns_are_valid(lake):
    rewrite(lake, changed().drop_columns(["id_ks", "config_digest", "superseded"]))
    assert verify_lake(lake) == []


def test_two_files_of_one_cell_are_valid_only_with_equal_numbers(lake):
    twin = lake_rows.checkpoint(1, model="lab/twin", weights="lab/small 1")
    lake_rows.commit(lake, twin, cell_id=lake_rows.cell(lake_rows.checkpoint(1)).id)
    assert verify_lake(lake) == []
    third = lake_rows.checkpoint(1, model="lab/third", weights="lab/small 1")
    lake_rows.commit(lake, third, cell_id=lake_rows.cell(lake_rows.checkpoint(1)).id, id_twonn=1.0)
    assert re.search(f"numbers.*{lake_rows.cell(lake_rows.checkpoint(1)).id}", found(lake)[0])


def test_invalid_or_misnamed_records_are_named(lake):
    stone = Tombstone(cell_id="a" * 32, reason="wrong", by="a person")
    lake.quarantine(stone)
    assert verify_lake(lake) == []
    (label,) = lake.store.list("labels")
    for key, data in {
        label: b"{}",
        f"quarantine/{'a' * 32}.json": b"not JSON",
        f"quarantine/{'b' * 32}.json": lake.store.get(f"quarantine/{'a' * 32}.json"),
        f"attempts/v1/{'c' * 32}.crash.{'0' * 8}.json": b"[]",
        "quarantine/notes.json": b"{}",
        f"{CELLS_PREFIX}/model_key=x/notes.parquet": b"",
    }.items():
        lake.store.put_or_replace(key, data)
    wanted = {label, "quarantine/notes.json", f"{CELLS_PREFIX}/model_key=x/notes.parquet"}
    wanted |= {f"quarantine/{'a' * 32}.json", f"quarantine/{'b' * 32}.json"}
    wanted |= {f"attempts/v1/{'c' * 32}.crash.{'0' * 8}.json"}
    assert {problem.key for problem in verify_lake(lake)} == wanted


SOUND = encode_parquet(to_table(lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(1))), {"recipe": "{}"}))


def test_the_checksum_detects_a_change_of_any_byte():
    assert checksum.is_corrupt(SOUND) is False
    start = SOUND.rfind(checksum.KEY.encode())
    for position in range(4, len(SOUND) - 4, 7):
        changed = bytearray(SOUND)
        changed[position] ^= 1
        if find_damage(bytes(changed)) is None:
            assert start <= position < start + len(checksum.KEY) + 2, "the key of the checksum; no number changed"
    with pytest.raises(ValueError, match="zeros"):
        checksum.fill_checksum(SOUND)


EDIT = st.tuples(st.integers(0, len(SOUND)), st.integers(0, 64), st.binary(max_size=16))
EDITS = st.lists(EDIT, min_size=1, max_size=4)
CASES = pytest.mark.parametrize("cases", [50, pytest.param(2000, marks=pytest.mark.slow)])


def edited(data, edits):
    for start, length, new in edits:
        data = data[:start] + new + data[start + length :]
    return data


@CASES
def test_a_mutated_file_is_an_error_or_the_same_numbers(lake, cases):
    query = "from layers order by layer"
    key = only_key(lake)
    lake.store.path(key).write_bytes(SOUND)
    before = lakes.open_lake(lake.uri).query_frame(query)

    @settings(max_examples=cases, deadline=None)
    @given(edits=EDITS)
    def holds(edits):
        lake.store.path(key).write_bytes(edited(SOUND, edits))
        with left_out_files() as messages:
            found = lakes.open_lake(lake.uri).query_frame(query)
        assert found.is_empty() if messages else found.equals(before)
        assert (verify_lake(lake) == []) == (find_damage(lake.store.get(key)) is None)

    holds()


def without_checksum():
    data = BytesIO()
    pq.write_table(pq.read_table(BytesIO(SOUND)).replace_schema_metadata(None), data)
    return data.getvalue()


UNCHECKED = without_checksum()


@pytest.mark.parametrize("cases", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_mutated_file_without_a_checksum_gives_rows_or_an_error(lake, cases):
    key = only_key(lake)

    @settings(max_examples=cases, deadline=None)
    @given(edits=EDITS)
    def holds(edits):
        lake.store.path(key).write_bytes(edited(UNCHECKED, edits))
        with left_out_files():
            lakes.open_lake(lake.uri).query_frame("from layers")
        verify_lake(lake)

    holds()
