"""Output for programs: JSON under documented names, log lines as JSON; the lake from the environment, completion."""

import json
import os
import re
import subprocess
import sys

import pytest

from pipeline import progress
from pipeline.sweep.prior_results import REASON_CODES
from pipeline.terminal import set_log_format
from tests.docs.pages import HEADER, list_commands
from tests.support import tiny_checkpoints as tiny

OUTPUT_ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", HEADER, re.MULTILINE))
WITHOUT_JSON = {"demo"}


@pytest.fixture(autouse=True)
def _text_logs():
    yield
    set_log_format("text")


def names(command: str) -> set[str]:
    """Names of the fields that the page documents for a command."""
    return set(re.findall(r"`(\w+)`", OUTPUT_ROWS[command]))


def test_every_command_has_json_and_its_names_are_documented():
    commands = list_commands()
    with_json = {name for name, command in commands.items() if any("--json" in each.opts for each in command.params)}
    assert with_json == set(commands) - WITHOUT_JSON
    assert set(OUTPUT_ROWS) == with_json


@pytest.fixture
def as_json(shapelake):
    def call(*words):
        code, out, err = shapelake(*words, "--json")
        return code, json.loads(out), err

    return call


def test_run_and_plan_print_documented_names(tmp_path, as_json):
    sweep = tiny.sweep_file(tmp_path, tiny.history(tmp_path / "runs", [0, 1]))
    words = (sweep, "--lake", tmp_path / "lake")
    _, before, _ = as_json("plan", *words)
    assert {cell["reason"] for cell in before["cells"]} == {"new_checkpoint"}
    assert {cell["state"] for cell in before["cells"]} == {"to_run"}
    code, done, _ = as_json("run", *words, "--backend", "inline")
    assert (code, set(done)) == (0, names("run"))
    assert (done["wanted"], done["in_lake"], done["new"], done["exit_code"]) == (2, 2, 2, 0)
    _, after, _ = as_json("plan", *words)
    assert [(cell["state"], cell["reason"]) for cell in after["cells"]] == [("done", None)] * 2
    assert {cell["cell_id"] for cell in after["cells"]} == {cell["cell_id"] for cell in before["cells"]}


def test_every_reason_has_a_documented_word():
    assert set(REASON_CODES.values()) <= set(re.findall(r"\w+", OUTPUT_ROWS["plan"]))


def test_commands_on_a_lake_print_documented_names(measured_lake, tmp_path, as_json):
    on = ("--lake", measured_lake)
    cell = as_json("query", "select cell_id from cells limit 1", *on)[1][0]["cell_id"]
    assert as_json("compact", *on)[1].keys() == names("compact")
    assert as_json("gc", *on)[1] == {"files": [], "removed": False}
    assert as_json("quarantine", cell, "--reason", "x", *on)[1] == {"cell_id": cell, "state": "hidden"}
    assert as_json("quarantine", cell, "--release", *on)[1] == {"cell_id": cell, "state": "released"}
    assert as_json("status", *on)[1].keys() >= {"models", "runs", "failures", "quarantined", "lake"}
    written = as_json("report", "-o", tmp_path / "r.html", *on)[1]
    assert written == {"files": [str(tmp_path / "r.html")], "note": None}
    exported = as_json("export", "--to", "tensorboard", tmp_path / "boards", *on)[1]
    assert (exported["runs_written"], exported["runs_unchanged"]) == (1, 0)
    assert exported.keys() == {"runs_written", "runs_unchanged", "view_command"}


def test_the_lake_is_taken_from_the_environment(measured_lake, shapelake, monkeypatch):
    monkeypatch.setenv("SHAPELAKE_LAKE", str(measured_lake))
    assert shapelake("query", "select count(*) as n from cells", "--json")[:2] == (0, '[{"n": 3}]\n')
    monkeypatch.delenv("SHAPELAKE_LAKE")
    code, _, err = shapelake("status")
    assert (code, "SHAPELAKE_LAKE" in err) == (2, True)


@pytest.mark.parametrize("words", [("--log", "json"), ("--log=json",)])
def test_errors_are_json_lines_wherever_the_option_stands(tmp_path, shapelake, words):
    code, _, err = shapelake("status", "--lake", tmp_path / "typo", *words)
    record = json.loads(err)
    assert (code, record["level"], record["found"]) == (2, "error", "no such folder")
    assert record["message"].startswith("error: ")
    assert set(record) == {"time", "level", "message", "asked", "found", "do"}


def test_a_run_logs_json_lines(tmp_path, shapelake, monkeypatch):
    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0)
    monkeypatch.setenv("SHAPELAKE_LOG", "json")
    sweep = tiny.sweep_file(tmp_path, tiny.history(tmp_path / "runs", [0]))
    code, _, err = shapelake("run", sweep, "--lake", tmp_path / "lake", "--backend", "inline")
    records = [json.loads(line) for line in err.splitlines()]
    assert code == 0
    assert any(record["message"].startswith("run ") for record in records)
    assert {"contexts", "layers"} <= {record.get("unit") for record in records}


def test_an_unknown_log_format_is_wrong_use(shapelake):
    code, _, err = shapelake("status", "--log", "jsn")
    assert (code, len(err.splitlines()), "did you mean 'json'" in err) == (2, 2, True)


def test_the_shell_completes_commands():
    environment = os.environ | {
        "_SHAPELAKE_COMPLETE": "complete_bash",
        "COMP_WORDS": "shapelake find",
        "COMP_CWORD": "1",
    }
    script = "import sys; sys.argv = ['shapelake']; from pipeline.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["findings"], done.stderr
