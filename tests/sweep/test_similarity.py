"""Similarity records of a sweep: same pass or own pass, no second rows, and the guarantees of cells."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

from pipeline.errors import UsageError
from pipeline.lake import Lake, Tombstone, lake_status, open_lake
from pipeline.lake.similarity_files import commit_records, decode_rows, encode_records, layer_record
from pipeline.lake.snapshot import collect_garbage, compact
from pipeline.lake.verify import verify_lake
from pipeline.spec import Similarity
from pipeline.sweep.config import load_sweep
from pipeline.sweep.json_records import describe_plan
from pipeline.sweep.plan import make_plan
from pipeline.sweep.recompute import recompute_random_cell
from pipeline.sweep.run import run
from tests.support import killed_writer
from tests.support import tiny_checkpoints as tiny

SIMILARITY = {"tokens": 60, "rank": 8, "neighbours": 4}
SIZE = "t60-r8-k4"


@pytest.fixture(scope="module")
def histories(tmp_path_factory) -> Path:
    return tiny.history(tmp_path_factory.mktemp("tiny") / "runs", [0, 1])


def swept(histories: Path, folder: Path, similarity: object = None, backend: str = "inline") -> Lake:
    """Run the sweep, on a lake that may exist."""
    folder.mkdir(exist_ok=True)
    sweep = load_sweep(str(tiny.sweep_file(folder, histories, similarity=similarity)))
    lake = Lake(folder / "lake")
    report = run(make_plan(sweep, lake), lake, backend)  # type: ignore[arg-type]
    assert report.exit_code == 0, report
    return lake


@pytest.fixture(scope="module")
def recorded(histories, tmp_path_factory) -> Lake:
    return swept(histories, tmp_path_factory.mktemp("recorded") / "here", SIMILARITY)


def contents(lake: Lake) -> dict[tuple[str, str], bytes]:
    return {size: lake.store.get(key) for size, key in lake.record_files().items()}


def plan_of(histories: Path, lake: Lake, similarity: object = SIMILARITY):
    folder = Path(lake.uri).parent
    return make_plan(load_sweep(str(tiny.sweep_file(folder, histories, similarity=similarity))), lake)


def test_records_are_made_in_the_pass_of_the_cell(recorded):
    assert len(recorded.record_files()) == len(recorded.cell_files()) == 2
    for (cell_id, size), data in contents(recorded).items():
        rows = decode_rows(data)
        assert [row["layer"] for row in rows] == [0, 1, 2, 3]
        assert {row["cell_id"] for row in rows} == {cell_id}
        assert size == SIZE
        record = layer_record(rows[1])
        assert record is not None
        assert (record.neighbours.shape, record.vectors.shape) == ((60, 4), (60, 8))
        assert record.vectors.dtype == np.float16
        assert sorted(set(rows[1]["token_groups"])) == [0, 1, 2]
        assert np.bincount(rows[1]["token_groups"]).tolist() == [20, 20, 20]
    assert verify_lake(recorded) == []


def test_all_checkpoints_have_the_same_tokens(recorded):
    rows = [row for data in contents(recorded).values() for row in decode_rows(data)]
    assert len({row["tokens_digest"] for row in rows}) == 1
    assert len({tuple(row["token_ids"]) for row in rows}) == 1


def test_a_pass_of_its_own_makes_equal_records_and_no_second_rows(histories, recorded, tmp_path):
    lake = swept(histories, tmp_path / "later")
    cells = {key: lake.store.get(key) for key in lake.cell_files().values()}
    plan = plan_of(histories, lake)
    assert plan.count_reasons() == {"no similarity records": 2}
    assert describe_plan(plan)["similarity"] == {"cells": 2, "bytes_per_layer": 2104, "bytes": 2 * 4 * 2104}
    lake = swept(histories, tmp_path / "later", SIMILARITY)
    assert {key: lake.store.get(key) for key in lake.cell_files().values()} == cells
    assert plan_of(histories, lake).todo == ()
    assert lake.record_files().keys() == recorded.record_files().keys()
    for mine, theirs in zip(contents(lake).values(), contents(recorded).values(), strict=True):
        for row, other in zip(decode_rows(mine), decode_rows(theirs), strict=True):
            for name, value in row.items():
                assert np.array_equal(value, other[name]), name


@pytest.mark.slow
def test_ray_makes_the_same_records(histories, recorded, tmp_path):
    lake = swept(histories, tmp_path / "ray", SIMILARITY, "ray")
    assert [decode_rows(data)[1]["tail"] for data in contents(lake).values()] == [
        decode_rows(data)[1]["tail"] for data in contents(recorded).values()
    ]


def test_the_field_changes_no_cell_id_and_no_recipe(histories, recorded, tmp_path):
    plain = swept(histories, tmp_path / "plain")
    assert plain.cell_files().keys() == recorded.cell_files().keys()
    assert len(plan_of(histories, recorded, None).todo) == 0
    other = plan_of(histories, recorded, {**SIMILARITY, "rank": 9})
    assert len(other.todo) == 2


def test_one_line_of_duckdb_polars_and_pandas_reads_them(recorded):
    files = f"{recorded.uri}/similarity/v1/**/*.parquet"
    assert duckdb.execute(f"select count(*), min(len(neighbours)) from '{files}'").fetchall() == [(8, 240)]
    assert pl.read_parquet(files)["vectors"].list.len().to_list() == [480] * 8
    assert len(pd.read_parquet(f"{recorded.uri}/similarity")) == 8


def test_a_record_is_created_once(histories, recorded):
    """One of sixteen concurrent writers creates the file, and its content stays."""
    (cell_id, size), key = next(iter(recorded.record_files().items()))
    model_key = key.split("model_key=")[1].split("/")[0]
    lake, data = Lake(Path(recorded.uri).parent / "other"), recorded.store.get(key)
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda _: commit_records(lake, cell_id, model_key, size, data), range(16)))
    assert sum(created) == 1
    assert not commit_records(lake, cell_id, model_key, size, b"other")
    assert lake.store.get(key) == data


def test_records_of_a_writer_killed_before_each_of_its_system_calls_are_whole_or_absent(tmp_path):
    n = killed_writer.moments("records", tmp_path)
    lakes = [Lake(tmp_path / str(moment)) for moment in range(n + 1)]
    sizes = [[len(data) for data in contents(lake).values()] for lake in lakes]
    assert sizes == sorted(sizes)
    assert [] in sizes[:-1]
    assert [999] in sizes[:-1]


@pytest.mark.parametrize("where", [0.3, 0.6, 0.97])
def test_verify_names_a_damaged_file(histories, tmp_path, where):
    lake = swept(histories, tmp_path / "here", SIMILARITY)
    key = next(iter(lake.record_files().values()))
    path = Path(lake.uri) / key
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)
    (problem,) = verify_lake(lake)
    assert problem.key == key
    assert "run its sweep again" in problem.found
    path.unlink()
    assert len(plan_of(histories, lake).todo) == 1


def test_verify_compares_name_and_rows(recorded, tmp_path):
    lake = Lake(tmp_path / "lake")
    data = next(iter(contents(recorded).values()))
    commit_records(lake, "f" * 32, "runs", SIZE, data)
    lake.store.put_new("similarity/v1/model_key=runs/x.parquet", b"")
    found = {problem.key.rpartition("/")[2]: problem.found for problem in verify_lake(lake)}
    assert "belong to cell" in found["f" * 32 + f"-{SIZE}.parquet"]
    assert found["x.parquet"] == "not a similarity file name"


def test_compact_and_gc_keep_them_and_status_counts_them(histories, tmp_path):
    lake = swept(histories, tmp_path / "here", SIMILARITY)
    before = contents(lake)
    compact(lake)
    assert collect_garbage(lake, dry_run=False) == []
    assert contents(lake) == before
    assert [model["similarity"] for model in lake_status(lake)["models"]] == [2]
    assert verify_lake(lake) == []


def test_a_quarantined_cell_gets_no_records(histories, tmp_path):
    lake = swept(histories, tmp_path / "here")
    cell_id = next(iter(lake.cell_files()))
    lake.quarantine(Tombstone(cell_id=cell_id, reason="test", by="a person"))
    assert len(plan_of(histories, lake).todo) == 1


def test_a_failing_record_pass_is_a_failure_and_not_a_committed_cell(histories, tmp_path, monkeypatch):
    lake = swept(histories, tmp_path / "here")
    monkeypatch.setattr("pipeline.measure.record_cell", lambda *args: 1 / 0)
    plan = plan_of(histories, lake)
    report = run(plan, lake, "inline")
    assert report.exit_code == 1
    assert report.committed == 0


def test_recompute_compares_the_records(histories, tmp_path):
    lake = swept(histories, tmp_path / "here", SIMILARITY)
    sweep = plan_of(histories, lake).sweep
    assert recompute_random_cell(sweep, lake, random.Random(0)) == []
    for key in lake.record_files().values():
        path = Path(lake.uri) / key
        rows = decode_rows(path.read_bytes())
        for row in rows:
            row["vectors"] = np.roll(row["vectors"], 8)
        path.write_bytes(encode_records(rows, {}))
    found = recompute_random_cell(sweep, lake, random.Random(0))
    assert len(found) == 4
    assert "CKA" in found[0]["found"]


def test_recompute_reports_damaged_records_beside_the_problems_of_verify(histories, tmp_path, shapelake):
    lake = swept(histories, tmp_path / "here", SIMILARITY)
    plan_of(histories, lake)
    for key in lake.record_files().values():
        path = Path(lake.uri) / key
        data = path.read_bytes()
        path.write_bytes(data[:1000] + b"oops" + data[1004:])
    words = ("verify", "--lake", lake.uri, "--recompute", tmp_path / "here" / "sweep.yaml", "--json")
    code, out, err = shapelake(*words)
    assert (code, err.count("defect")) == (1, 0)
    *plain, again = json.loads(out)
    assert {problem["key"] for problem in plain} == {*lake.record_files().values()}
    assert again["key"] in {problem["key"] for problem in plain}
    assert again["found"] == "not compared with the records made again: changed since it was written"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tokens": 8}, "greater than or equal to 16"),
        ({"tokens": 64, "rank": 64}, "must be smaller than tokens (64)"),
        ({"token": 64}, "tokens"),
        ({"tokens": 32767}, "32767 tokens need 69 GB of memory; write 4096 or fewer"),
    ],
)
def test_wrong_settings_are_named(histories, tmp_path, wrong, says):
    with pytest.raises(UsageError, match="similarity") as error:
        load_sweep(str(tiny.sweep_file(tmp_path, histories, similarity=wrong)))
    assert says in str(error.value)


def test_a_lake_without_records_stays_readable(histories, tmp_path):
    lake = swept(histories, tmp_path / "here")
    assert lake.record_files() == {}
    assert open_lake(lake.uri).query_frame("select count(*) n from layers")["n"].item() == 8
    assert json.dumps(describe_plan(plan_of(histories, lake, None)))


def test_settings_state_their_bytes():
    assert Similarity().bytes_per_layer == 512 * (64 + 32 + 10) + 256
    assert Similarity(ranks=True).name == "t512-r32-k16-ranks"
