"""Views over cells, tombstones, algorithm versions and older files; and the limits of the SQL sandbox."""

import re
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import lake as lakes
from pipeline.columns import column_names
from pipeline.errors import UsageError
from pipeline.lake import Lake, Tombstone
from pipeline.lake.layout import CELLS_PREFIX, FILE_NAME_PATTERNS
from pipeline.lake.reader import SANDBOX_SETTINGS
from tests.support import lake_rows, recorded_clouds
from tests.support.left_out_files import left_out_files


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def ask(lake, sql):
    return lakes.open_lake(lake.uri).sql(sql).fetchall()


def hide(lake, cell_id):
    lake.quarantine(Tombstone(cell_id=cell_id, reason="wrong tokenizer", by="a person"))


def test_a_lake_that_does_not_exist_reads_as_empty_views_with_every_column(lake):
    reader = lakes.LakeReader(lake.uri)
    assert tuple(reader.layers().columns) == column_names()
    assert len(reader.layers().df()) == len(reader.checkpoints().df()) == len(reader.cells().df()) == 0
    assert set(column_names("model", "checkpoint")) < set(reader.checkpoints().columns)
    assert {"cell_id", "recipe", "total_s", "status", "hidden"} < set(reader.cells().columns)
    assert not lake.store.root.exists(), "reading creates nothing"


def test_rows_come_back_as_written_through_pandas_polars_and_arrow(lake):
    for step in (1, 2):
        commit = lake_rows.commit(lake, lake_rows.checkpoint(step))
    reader = lakes.open_lake(lake.uri)
    wanted = {"superseded": False, "schema_version": 1}
    expected = [row | wanted for row in lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(2)))]
    relation = reader.layers().filter(f"cell_id = '{commit}'").order("layer")
    assert relation.to_arrow_table().to_pylist() == expected
    assert relation.pl().to_dicts() == expected
    frame = relation.df()
    assert list(frame.columns) == list(column_names())
    assert frame["anisotropy"].tolist() == [0.0, 0.1, 0.2]
    assert str(frame["written_at"].dtype) == "datetime64[us, UTC]"


def test_types_of_the_view_are_those_of_the_schema(lake):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    from pipeline.lake.schema import arrow_schema

    table = lakes.open_lake(lake.uri).layers().to_arrow_table()
    written_at = table.schema.get_field_index("written_at")
    zoned = table.schema.set(written_at, pa.field("written_at", pa.timestamp("us", tz="UTC")))
    assert table.cast(zoned).schema.equals(arrow_schema())


def test_plain_one_liners_read_the_cells_without_this_package(lake):
    for step in (1, 2):
        lake_rows.commit(lake, lake_rows.checkpoint(step))
    glob = f"{lake.uri}/{CELLS_PREFIX}/**/*.parquet"
    total = duckdb.sql(f"select sum(anisotropy), count(*), any_value(model_key) from read_parquet('{glob}')").fetchall()
    assert total == [(pytest.approx(0.6), 6, "lab--small")]
    assert pl.scan_parquet(glob).select(pl.sum("anisotropy")).collect().item() == pytest.approx(0.6)
    frame = pd.read_parquet(f"{lake.uri}/{CELLS_PREFIX}")
    assert frame["anisotropy"].sum() == pytest.approx(0.6)
    assert set(frame["step"]) == {1, 2}
    recipes = duckdb.sql(f"select decode(value) from parquet_kv_metadata('{glob}') where decode(key) = 'recipe'")
    assert recipes.fetchall() == [("{}",), ("{}",)]


def test_format_md_names_every_prefix_and_its_snippets_run(lake, monkeypatch):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    recorded_clouds.add_records(lake.uri)
    monkeypatch.chdir(Path(lake.uri).parent)
    text = (Path(lakes.__file__).parent / "format.md").read_text()
    assert all(f"`{prefix}/" in text for prefix in FILE_NAME_PATTERNS)
    snippets = re.findall("```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(snippet, {})


WHERES = (
    "step = 2",
    "step in (1, 3) and layer > 0",
    "model like 'lab/%' and step <> 2",
    "step is null",
    "corpus_sha256 is null and not (layer = 1)",
    "anisotropy between 0.05 and 0.15",
    "superseded = false",
    "list_contains(flags, 'odd')",
    "written_at > timestamptz '2026-01-01' and status = 'ok'",
)


@pytest.mark.parametrize("where", WHERES)
def test_filters_pushed_into_the_files_select_the_same_rows_as_duckdb(lake, where):
    for step in (1, 2, 3):
        lake_rows.commit(lake, lake_rows.checkpoint(step), flags=["odd"] if step == 3 else [])
    lake_rows.commit(lake, lake_rows.checkpoint(None))
    files = f"select * replace (false as superseded) from read_parquet('{lake.uri}/{CELLS_PREFIX}/**/*.parquet')"
    query = "select revision, layer from {} where {} order by all"
    assert ask(lake, query.format("layers", where)) == duckdb.sql(query.format(f"({files})", where)).fetchall()


def test_the_newest_algorithm_counts_and_a_tombstone_brings_the_last_good_one_back(lake):
    point = lake_rows.checkpoint(1)
    lake_rows.commit(lake, point, cell_id="a" * 32, algorithm=6, id_twonn=6.0)
    lake_rows.commit(lake, point, cell_id="b" * 32, algorithm=10, id_twonn=10.0)
    lake_rows.commit(lake, lake_rows.checkpoint(2), cell_id="c" * 32, algorithm=6, id_twonn=2.0)
    lake_rows.commit(lake, point, cell_id="d" * 32, algorithm=6, recipe="other@1", id_twonn=3.0)
    query = "select distinct step, id_twonn from layers order by all"
    assert ask(lake, query) == [(1, 3.0), (1, 10.0), (2, 2.0)]
    hide(lake, "b" * 32)
    assert ask(lake, query) == [(1, 3.0), (1, 6.0), (2, 2.0)]
    assert ask(lake, "select cell_id[1], hidden from cells order by 1") == [
        ("a", False),
        ("b", True),
        ("c", False),
        ("d", False),
    ]
    lake.release("b" * 32)
    assert ask(lake, query) == [(1, 3.0), (1, 10.0), (2, 2.0)]


def test_a_cell_shows_its_worst_status_and_its_costs(lake):
    point = lake_rows.checkpoint(1)
    table = lake_rows.rows(lake_rows.cell(point), knn_s=2.0, total_s=9.0)
    table[1] |= {"status": "nonfinite", "flags": ["n"]}
    table[2] |= {"status": "degenerate", "flags": ["d"]}
    cell_id = lake_rows.cell(point).id
    lake.commit(cell_id, point.model_key, lakes.to_table(table, {}))
    query = "select cell_id, rows, status, knn_s, total_s, model, corpus, hidden from cells"
    assert ask(lake, query) == [(cell_id, 3, "nonfinite", 6.0, 9.0, "lab/small", "random-uniform", False)]


def test_files_of_other_versions_have_nulls_for_missing_columns(lake):
    """One older file (missing columns), one newer file (an extra column) and one current file."""
    for step in (1, 2, 3):
        lake_rows.commit(lake, lake_rows.checkpoint(step))
    older, newer, _ = (lake.store.path(key) for key in lake.cell_files().values())
    table = pq.read_table(older).replace_schema_metadata(None)
    pq.write_table(table.drop_columns(["id_ks", "top_dims", "config_digest", "algorithm", "superseded"]), older)
    later = pq.read_table(newer).replace_schema_metadata(None)
    pq.write_table(later.append_column("later", pa.array([1, 2, 3])), newer)
    rows = lakes.open_lake(lake.uri).layers().pl()
    assert rows.columns == list(column_names())
    assert rows.height == 9
    assert rows["id_ks"].null_count() == rows["algorithm"].null_count() == 3
    assert rows["anisotropy"].null_count() == 0


@pytest.mark.parametrize("name", ["notes.parquet", "._notes.parquet", f"{'e' * 32}.parquet"])
def test_a_foreign_file_among_the_cells_is_named_and_left_out(lake, name):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    path = lake.store.root / CELLS_PREFIX / "model_key=lab--small" / name
    path.write_bytes(b"PAR1 but truncated")
    with left_out_files(UserWarning) as messages:
        assert len(lakes.open_lake(lake.uri).cells()) == 1
    assert [name in message for message in messages] == [True]
    path.rename(path.with_suffix(".txt"))
    assert len(lakes.open_lake(lake.uri).cells()) == 1


def test_a_truncated_cell_is_named_and_left_out(lake):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    (key,) = lake.cell_files().values()
    path = lake.store.path(key)
    path.write_bytes(path.read_bytes()[:-100])
    with left_out_files() as messages:
        assert len(lakes.open_lake(lake.uri).cells()) == 0
    assert path.name in messages[0]


def test_a_cell_committed_under_two_models_counts_once(lake):
    point, twin = lake_rows.checkpoint(1), lake_rows.checkpoint(1, model="lab/twin", weights="lab/small 1")
    assert lake_rows.commit(lake, point) == lake_rows.commit(lake, twin)
    assert ask(lake, "select count(*) from layers") == [(lake_rows.LAYERS,)]
    assert len(lake.committed_cell_ids()) == 1


SECRET = "not for SQL"


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_text('{secret}')",
        "select * from read_csv('{secret}')",
        "select * from '{secret}'",
        "select * from read_parquet('{cell}')",
        "select * from glob('{folder}/*')",
        "copy (select 1) to '{folder}/written.csv'",
        "copy layers to '{cell}' (format parquet)",
        "attach '{folder}/written.db'",
        "export database '{folder}/written'",
        "install httpfs",
        "load '{folder}/evil.duckdb_extension'",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "reset enable_external_access",
        "reset lock_configuration",
        "pragma enable_external_access",
        "set allowed_directories = ['/']",
        "set allowed_paths = ['{secret}']",
        "set global python_enable_replacements = true",
        "select 1; set enable_external_access = true; select * from read_text('{secret}')",
        "select * from read_csv('/etc/passwd')",
        "select * from read_csv('http://127.0.0.1:9/a.csv')",
        "select * from read_parquet('s3://bucket/a.parquet')",
        "attach 'http://127.0.0.1:9/a.db'",
        "attach ':memory:' as other; attach '{secret}' as more",
        "copy (select 1) to 's3://bucket/a.csv'",
        "copy layers from '{secret}'",
        "import database '{folder}'",
        "load httpfs",
        "force install httpfs from 'http://127.0.0.1:9'",
        "create secret (type s3, key_id 'a', secret 'b')",
        "call enable_logging(storage = 'file', storage_path = '{folder}/log')",
        "select getenv('HOME')",
        "select content from read_blob('{secret}')",
        "select * from parquet_metadata('{cell}')",
        "select * from sniff_csv('{secret}')",
        "select * from read_json('{secret}')",
        "select * from frame",
        "select * from nowhere",
        "selec 1",
        "",
    ],
)
def test_sql_reads_the_views_and_nothing_else_and_writes_nothing(lake, tmp_path, sql):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    (key,) = lake.cell_files().values()
    cell, secret = lake.store.path(key), tmp_path / "secret"
    secret.write_text(SECRET)
    frame = pd.DataFrame({"a": [SECRET]})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UsageError) as caught:
        lakes.open_lake(lake.uri).query_frame(sql.format(secret=secret, folder=tmp_path, cell=cell))
    assert len(str(caught.value).splitlines()) == 2
    assert SECRET not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, frame.shape


@pytest.mark.parametrize(
    "sql",
    [
        "copy (select 1) to '.tmp/x.csv'",
        "copy (select 1) to '.tmp' (format csv, per_thread_output)",
        "select * from '.tmp/s.csv'",
        "select content from read_text('.tmp/s.csv')",
        "select * from glob('.tmp/*')",
        "attach '.tmp/x.db'",
        "export database '.tmp/x'",
        "set temp_directory = '.tmp'",
    ],
)
def test_sql_reaches_no_file_in_the_temporary_directory_of_duckdb(lake, tmp_path, monkeypatch, sql):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "s.csv").write_text(f"a\n{SECRET}\n")
    with pytest.raises(UsageError, match=r"Permission Error|locked"):
        lakes.LakeReader(lake.uri).query_frame(sql)
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["s.csv"]


def test_a_query_beyond_the_memory_limit_fails_and_leaves_no_folder(lake, tmp_path, monkeypatch):
    """The same limit with DuckDB's default would create `.tmp` in the working directory and spill into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.lake.reader.SANDBOX_SETTINGS", (*SANDBOX_SETTINGS, "memory_limit = '60MB'"))
    with pytest.raises(UsageError, match="Out of Memory") as caught:
        lakes.LakeReader(lake.uri).query_frame("select md5(range::varchar) x from range(4000000) order by 1")
    assert len(str(caught.value).splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_one_query_cannot_disturb_the_next(lake):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    reader = lakes.open_lake(lake.uri)
    first = reader.layers().to_arrow_reader()
    assert reader.sql("create or replace view layers as select 1; select 2").fetchall() == [(2,)]
    assert reader.sql("select count(*) from layers").fetchall() == [(lake_rows.LAYERS,)]
    assert first.read_all().num_rows == lake_rows.LAYERS, "an open result stays valid"


def test_a_reader_does_not_see_later_commits(lake):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    reader = lakes.open_lake(lake.uri)
    lake_rows.commit(lake, lake_rows.checkpoint(2))
    assert reader.sql("select count(*) from cells").fetchall() == [(1,)]
    assert lakes.open_lake(lake.uri).sql("select count(*) from cells").fetchall() == [(2,)]


def test_an_error_during_computation_has_two_lines(lake):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    with pytest.raises(UsageError, match="Conversion Error") as caught:
        lakes.open_lake(lake.uri).query_frame("select model::int from layers")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("view", ["layers", "checkpoints", "cells"])
def test_every_column_of_a_view_can_be_printed(lake, view, capsys):
    """Including times and lists; duckdb's fetchall would need pytz for a time with a zone."""
    from pipeline import render

    lake_rows.commit(lake, lake_rows.checkpoint(1))
    frame = lakes.open_lake(lake.uri).query_frame(f"from {view}")
    for printed in (render.print_csv, render.print_json_rows):
        printed(frame.columns, frame.rows())
        assert "2026-01-02 00:00:00+00:00" in capsys.readouterr().out
