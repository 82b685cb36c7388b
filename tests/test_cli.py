"""Commands through the command line: help, output formats and exit codes."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jobs.local
from pipeline.lake import Lake, Tombstone
from tests.docs.pages import list_commands, render_reference
from tests.support import lake_rows
from tests.support import tiny_checkpoints as tiny
from tests.support.lake_rows import failure

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = list_commands()
OPTION = re.compile(r"(?<!\S)--?[a-z][a-z-]*")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_an_example(shapelake, command):
    code, out, _ = shapelake(command, "--help")
    assert code == 0
    example = COMMANDS[command].help.split("\n\n")[-1]
    assert example.startswith(f"Example: shapelake {command}")
    assert " ".join(example.split()) in " ".join(out.split())
    known = {name for parameter in COMMANDS[command].params for name in parameter.opts}
    assert set(OPTION.findall(example)) <= known


def test_the_reference_page_does_not_depend_on_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    page = (ROOT / "pipeline" / "cli" / "reference.md").read_text()
    assert page == render_reference(), "out of date: make pages"
    assert {f"## {command}" for command in COMMANDS} <= set(page.splitlines())


def test_query_answers_as_table_json_and_csv(measured_lake, shapelake):
    sql = "select step, layer, n_points from layers order by step, layer"
    _, as_json, _ = shapelake("query", sql, "--lake", measured_lake, "--json")
    _, as_csv, _ = shapelake("query", sql, "--lake", measured_lake, "--csv")
    _, table, _ = shapelake("query", sql, "--lake", measured_lake)
    rows = json.loads(as_json)
    assert [(row["step"], row["layer"]) for row in rows] == [(s, i) for s in (0, 1, 10) for i in range(4)]
    assert [{k: int(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(as_csv))] == rows
    assert table.split()[:3] == ["step", "layer", "n_points"]


def test_the_three_views_are_there(measured_lake, shapelake):
    for view, count in (("layers", 12), ("checkpoints", 3), ("cells", 3)):
        _, out, _ = shapelake("query", f"select count(*) as n from {view}", "--lake", measured_lake, "--json")
        assert json.loads(out) == [{"n": count}]


def test_plan_as_json_says_what_is_wanted_done_and_to_run(measured_lake, tmp_path, shapelake):
    tiny.checkpoint(tmp_path / "runs" / "step100", 100)
    (tmp_path / "runs" / "best").mkdir()
    (tmp_path / "runs" / "best" / "config.json").write_text("{}")
    code, out, _ = shapelake("plan", tmp_path / "sweep.yaml", "--lake", measured_lake, "--json")
    plan = json.loads(out)
    assert code == 0
    assert (plan["wanted"], plan["done"], plan["to_run"]) == (4, 3, ["runs@step100 text:prose tiny@1"])
    assert plan["reasons"] == {"new checkpoint": 1}
    assert plan["unparsed"] == ["runs/best"]


def test_status_counts_models_and_cells(measured_lake, shapelake):
    _, out, _ = shapelake("status", "--lake", measured_lake, "--json")
    state = json.loads(out)
    assert [(m["model"], m["cells"], m["newest_step"]) for m in state["models"]] == [("runs", 3, 10)]
    assert [(run["committed"], run["ended"]) for run in state["runs"]] == [(3, True)]


def test_measure_prints_the_rows_that_a_sweep_commits(measured_lake, tmp_path, shapelake):
    words = ("--corpus", f"text:{tmp_path / 'prose.txt'}", "--recipe", json.dumps(tiny.RECIPE))
    code, out, _ = shapelake("measure", tmp_path / "runs" / "step10", *words, "--json")
    rows = json.loads(out)
    sql = "select layer, anisotropy, id_twonn, cell_id from layers where step = 10 order by layer"
    _, found, _ = shapelake("query", sql, "--lake", measured_lake, "--json")
    names = ("layer", "anisotropy", "id_twonn", "cell_id")
    assert code == 0
    assert [{name: row[name] for name in names} for row in rows] == json.loads(found)


def test_measure_of_a_cell_that_a_sweep_committed_under_another_name_adds_nothing(tmp_path, shapelake):
    root = tiny.history(tmp_path / "runs", [0, 1])
    named = {"local": str(root), "model": "lab/named", "family": "Small"}
    lake = tmp_path / "lake"
    sweep = tiny.sweep_file(tmp_path, root, checkpoints=[named])
    code, *_ = shapelake("run", sweep, "--lake", lake, "--backend", "inline")
    assert code == 0
    before = sorted(path for path in lake.rglob("*") if path.is_file())
    measure = (
        "measure",
        root / "step1",
        "--recipe",
        json.dumps(tiny.RECIPE),
        "--lake",
        lake,
        "--json",
        "--corpus",
    )
    code, out, _ = shapelake(*measure, f"text:{tmp_path / 'prose.txt'}")
    assert (code, len(json.loads(out))) == (0, 4)
    assert sorted(path for path in lake.rglob("*") if path.is_file()) == before

    code, *_ = shapelake(*measure, "random-uniform")
    assert code == 0
    sql = "select model, family, revision, count(distinct cell_id) as cells from layers group by all order by revision"
    _, found, _ = shapelake("query", sql, "--lake", lake, "--json")
    assert [tuple(row.values()) for row in json.loads(found)] == [
        ("lab/named", "Small", "step0", 1),
        ("lab/named", "Small", "step1", 2),
    ], "another corpus of a known checkpoint is recorded under its known name"


def test_measure_commits_under_the_folders_name_and_ends_a_quarantine_for_failure(tmp_path, shapelake):
    root = tiny.history(tmp_path / "runs", [0])
    lake = Lake(tmp_path / "lake")
    run = ("run", tiny.sweep_file(tmp_path, root), "--lake", lake.uri, "--backend", "inline")
    measure = ("measure", root / "step0", "--corpus", f"text:{tmp_path / 'prose.txt'}", "--json")
    measure += ("--recipe", json.dumps(tiny.RECIPE))
    _, out, _ = shapelake(*measure)
    (cell_id,) = {row["cell_id"] for row in json.loads(out)}
    lake.quarantine(failure(lake_rows.checkpoint(0), cell_id=cell_id, error_class="permanent"))
    assert shapelake(*run)[0] == 1, "the cell is quarantined"
    code, *_ = shapelake(*measure, "--lake", lake.uri)
    assert (code, lake.quarantined_cell_ids(), lake.committed_cell_ids()) == (0, set(), {cell_id})
    assert [named.label.name for named in lake.labels()] == ["runs@step0"]
    assert shapelake(*run)[0] == 0


def test_what_a_person_has_hidden_stays_hidden_when_it_is_measured_again(measured_lake, tmp_path, shapelake):
    lake = Lake(measured_lake)
    for cell_id in lake.committed_cell_ids():
        lake.quarantine(Tombstone(cell_id=cell_id, reason="wrong tokenizer", by="a person"))
    words = (
        "--corpus",
        f"text:{tmp_path / 'prose.txt'}",
        "--recipe",
        json.dumps(tiny.RECIPE),
        "--lake",
        measured_lake,
    )
    code, *_ = shapelake("measure", tmp_path / "runs" / "step10", *words)
    assert (code, lake.quarantined_cell_ids()) == (0, lake.committed_cell_ids())


def test_measure_refuses_a_recipe_that_drifted_before_it_loads_anything(measured_lake, tmp_path, shapelake):
    (tmp_path / "runs" / "step10" / "model.safetensors").write_bytes(b"no weights: loading them would fail")
    changed = json.dumps(tiny.RECIPE | {"contexts": 9})
    words = ("--corpus", f"text:{tmp_path / 'prose.txt'}", "--recipe", changed, "--lake", measured_lake)
    code, _, err = shapelake("measure", tmp_path / "runs" / "step10", *words)
    assert (code, "contexts 8 -> 9" in err) == (2, True)


def test_a_job_module_is_a_program_and_a_sweep(tmp_path, shapelake, monkeypatch):
    tiny.history(tmp_path / "checkpoints", [0, 5])
    monkeypatch.chdir(tmp_path)
    words = ("--set", f"recipe={json.dumps(tiny.RECIPE)}", "--set", "resources.cpus=1", "--backend", "inline")
    monkeypatch.setenv("PYTHONPATH", "")
    code, out, _ = shapelake("run", "jobs.local", "--lake", tmp_path / "lake", *words)
    assert code == 0, out
    assert "2 of 2" in out
    assert len(Lake(tmp_path / "lake").committed_cell_ids()) == 2


def test_python_m_jobs_is_shapelake_run():
    done = subprocess.run(
        [sys.executable, "-m", "jobs.local", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (jobs.local.__doc__ or "").splitlines()[0] in done.stdout
    assert "Usage: python -m jobs.local [OPTIONS]\n" in done.stdout
    assert "SWEEP" not in done.stdout


def test_metrics_says_unit_meaning_source_and_bias(shapelake):
    _, out, _ = shapelake("metrics", "id_twonn", "--json")
    (metric,) = json.loads(out)
    assert (metric["name"], metric["unit"], metric["group"]) == ("id_twonn", "dims", "dimension")
    assert "Facco" in metric["source"] + metric["meaning"]
    assert metric["bias"]
    code, _, err = shapelake("metrics", "id_twon")
    assert (code, len(err.splitlines())) == (2, 2)
    assert "id_twonn" in err


def test_the_readme_names_the_views_and_links_the_reference():
    readme = (ROOT / "README.md").read_text()
    for word in (
        "pipeline/cli/reference.md",
        "shapelake plan",
        "shapelake run",
        "make demo",
        "layers",
        "checkpoints",
        "cells",
    ):
        assert word in readme, word


def test_a_limit_is_named_with_the_cost_and_at_the_end(tmp_path, shapelake):
    similarity = {"tokens": 60, "rank": 8, "neighbours": 4}
    sweep = tiny.sweep_file(tmp_path, tiny.history(tmp_path / "runs", [0, 1, 10]), similarity=similarity)
    words = ("run", sweep, "--lake", tmp_path / "lake", "--backend", "inline", "--limit", 1, "--steps", "0,10")
    code, out, _ = shapelake(*words)
    assert code == 0
    (cost,) = (line for line in out.splitlines() if line.startswith("cost"))
    assert "with --steps 0,10; for all 2 cells, --limit runs 1 of them" in cost
    (records,) = (line for line in out.splitlines() if line.startswith("records"))
    assert "records of 2 cells to make" in records
    assert records.endswith("; for all 2 cells, --limit runs 1 of them")
    assert out.splitlines()[-1].endswith("1 of 1 wanted cells are in the lake, 1 new, 1 left out by --limit")


@pytest.mark.parametrize(
    ("hours", "shown"), [(0.0012, "4.3 seconds"), (0.5, "30 minutes"), (1.25, "1.2 hours"), (1234.0, "1,234 hours")]
)
def test_a_duration_has_a_readable_unit(hours, shown):
    from pipeline.render.sweeps import _duration

    assert _duration(hours, "hours") == shown
