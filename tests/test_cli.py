"""The commands as a person types them: forms, help, output, exit codes."""

import csv
import io
import json

import pytest

from tests import real
from tests.test_bad_input import shapelake, sweep_file  # noqa: F401

COMMANDS = ("plan", "run", "status", "measure", "query", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example(shapelake, command):  # noqa: F811
    code, out, _ = shapelake(command, "--help")
    assert code == 0
    assert f"Example: shapelake {command}" in out


@pytest.fixture
def measured(tmp_path, shapelake):  # noqa: F811
    """A lake with one history of three checkpoints on text."""
    root = real.history(tmp_path / "runs", [0, 1, 10])
    lake = tmp_path / "lake"
    code, *_ = shapelake("run", sweep_file(tmp_path, root), "--lake", lake, "--backend", "inline")
    assert code == 0
    return lake


def test_query_answers_as_table_json_and_csv(measured, shapelake):  # noqa: F811
    sql = "select step, layer, n_points from layers order by step, layer"
    _, as_json, _ = shapelake("query", sql, "--lake", measured, "--json")
    _, as_csv, _ = shapelake("query", sql, "--lake", measured, "--csv")
    _, table, _ = shapelake("query", sql, "--lake", measured)
    rows = json.loads(as_json)
    assert [(row["step"], row["layer"]) for row in rows] == [(s, i) for s in (0, 1, 10) for i in range(4)]
    assert [{k: int(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(as_csv))] == rows
    assert table.split()[:3] == ["step", "layer", "n_points"]


def test_the_three_views_are_there(measured, shapelake):  # noqa: F811
    for view, count in (("layers", 12), ("checkpoints", 3), ("cells", 3)):
        _, out, _ = shapelake("query", f"select count(*) as n from {view}", "--lake", measured, "--json")
        assert json.loads(out) == [{"n": count}]


def test_plan_as_json_says_what_is_wanted_done_and_to_run(measured, tmp_path, shapelake):  # noqa: F811
    real.checkpoint(tmp_path / "runs" / "step100", 100)
    (tmp_path / "runs" / "best").mkdir()
    (tmp_path / "runs" / "best" / "config.json").write_text("{}")
    code, out, _ = shapelake("plan", tmp_path / "sweep.yaml", "--lake", measured, "--json")
    plan = json.loads(out)
    assert code == 0
    assert (plan["wanted"], plan["done"], plan["to_run"]) == (4, 3, ["runs@step100 text:prose tiny@1"])
    assert plan["reasons"] == {"new checkpoint": 1}
    assert plan["unparsed"] == ["runs/best"]


def test_status_counts_models_and_cells(measured, shapelake):  # noqa: F811
    _, out, _ = shapelake("status", "--lake", measured, "--json")
    state = json.loads(out)
    assert [(m["model"], m["cells"], m["newest_step"]) for m in state["models"]] == [("runs", 3, 10)]
    assert [(run["committed"], run["ended"]) for run in state["runs"]] == [(3, True)]


def test_measure_prints_the_rows_that_a_sweep_commits(measured, tmp_path, shapelake):  # noqa: F811
    words = ("--corpus", f"text:{tmp_path / 'prose.txt'}", "--recipe", json.dumps(real.RECIPE))
    code, out, _ = shapelake("measure", tmp_path / "runs" / "step10", *words, "--json")
    rows = json.loads(out)
    sql = "select layer, anisotropy, id_twonn, cell_id from layers where step = 10 order by layer"
    _, found, _ = shapelake("query", sql, "--lake", measured, "--json")
    names = ("layer", "anisotropy", "id_twonn", "cell_id")
    assert code == 0
    assert [{name: row[name] for name in names} for row in rows] == json.loads(found)


def test_a_job_module_is_a_program_and_a_sweep(tmp_path, shapelake, monkeypatch):  # noqa: F811
    real.history(tmp_path / "checkpoints", [0, 5])
    monkeypatch.chdir(tmp_path)
    words = ("--set", f"recipe={json.dumps(real.RECIPE)}", "--set", "resources.cpus=1", "--backend", "inline")
    monkeypatch.setenv("PYTHONPATH", "")
    code, out, _ = shapelake("run", "jobs.local", "--lake", tmp_path / "lake", *words)
    assert code == 0, out
    assert "2 of 2 wanted cells are in the lake, 2 new" in out
