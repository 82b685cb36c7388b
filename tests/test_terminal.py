"""Names with control characters or markup: terminals and spreadsheets receive them as inert text."""

import ast
import csv
import io
import json
import sys

import pytest
from rich.console import Console

from pipeline import progress, render
from pipeline.errors import LakeError, UsageError
from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run_progress import RunProgress
from pipeline.sweep.task import Outcome
from pipeline.terminal import escape_control, escape_lines
from tests.infra.files import ROOT
from tests.support import lake_rows
from tests.support import stub_checkpoints as stub

HOSTILE = "lab/run[v2][/]:smile:\x1b[2J\r\n\x07\x9b\u202e\u2028"
SHOWN = r"lab/run[v2][/]:smile:\x1b[2J\r\n\x07\x9b\u202e\u2028"


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path / "lake")
    point = lake_rows.checkpoint(1, model=HOSTILE, revision=HOSTILE)
    lake_rows.commit(lake, point, model=HOSTILE, revision=HOSTILE, flags=[HOSTILE])
    lake.record_labels([point])
    failed = lake_rows.checkpoint(2, model=HOSTILE)
    lake.record_attempt(lake_rows.failure(failed, message=f"died of {HOSTILE}", command=f"shapelake {HOSTILE}"))
    return lake


def assert_inert(text: str, times: int = 1) -> None:
    assert text.count(SHOWN) >= times, text
    assert not [char for char in text if char != "\n" and not char.isprintable()]


def test_escapes_are_those_of_python():
    assert escape_control(HOSTILE) == SHOWN
    assert escape_control("\udcff é 東京 C:\\x") == r"\udcff é 東京 C:\x"
    assert escape_lines("a\n\tb\x1b\n") == "a\n\tb\\x1b\n"


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--failed"),
        ("findings", "dome", "--all"),
        ("query", "select model, revision, flags from layers"),
        ("query", "select {'a': model} as nested from layers"),
        ("query", "pivot (select model, layer from layers) on model using count(*)"),
    ],
    ids=" ".join,
)
def test_names_from_a_lake_are_printed_as_they_are(lake, shapelake, words):
    code, out, _ = shapelake(*words, "--lake", lake.uri)
    assert code == 0
    assert_inert(out)


def test_layers_are_printed_as_they_are(lake, capsys):
    from pipeline import lake as lakes

    render.print_layers(lakes.open_lake(lake.uri).query_frame("from layers order by layer").to_dicts())
    assert_inert(capsys.readouterr().out)


def test_json_keeps_the_characters(lake, shapelake):
    _, out, _ = shapelake("query", "select model from layers", "--lake", lake.uri, "--json")
    assert {row["model"] for row in json.loads(out)} == {HOSTILE}


def test_plan_and_run_print_names_as_they_are(tmp_path, capsys):
    name = HOSTILE.replace("/", "")
    sweep = stub.sweep(stub.history(tmp_path / name, [1, 2])).model_copy(update={"name": HOSTILE})
    plan = make_plan(sweep, Lake(tmp_path / "lake"))
    render.print_plan(plan, HOSTILE)
    assert_inert(capsys.readouterr().out)
    from pipeline.sweep.driver import RunReport

    cell = plan.todo[0]
    failed = Outcome(cell_id=cell.id, error_class="crash", message=f"{name}\nsecond line")
    stop_reason = str(LakeError(HOSTILE, "no longer the lake of this run", "Restore it"))
    render.print_run_report(RunReport(failures={cell.id: (cell, failed)}, stop_reason=stop_reason), plan, HOSTILE)
    out = capsys.readouterr().out
    assert_inert(out, 2)
    assert "\n          second line\n" in out


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_of_a_run_prints_names_as_they_are(tmp_path, terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None, width=500)
    cell = lake_rows.cell(lake_rows.checkpoint(1, model=HOSTILE, revision=HOSTILE))
    with RunProgress(2, console) as shown:
        shown.report_commit(cell, Outcome(cell_id=cell.id, summary=HOSTILE))
        shown.report_failure(cell, Outcome(cell_id=cell.id, error_class="crash", message=HOSTILE), again=False)
        shown.report_failure(cell, Outcome(cell_id=cell.id, error_class="crash"), again=False)
        shown.refresh(1, 0, 1, stopping=False)
    assert out.getvalue().count(SHOWN) >= 2, "in the bar or the line of the failure"
    assert not set("\x07\x9b\u202e\u2028") & set(out.getvalue())
    assert "\x1b[2J" not in out.getvalue()
    assert "1 failed" in out.getvalue() or not terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_of_a_wait_prints_names_as_they_are(monkeypatch, capsys, terminal):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress.Progress(HOSTILE, 2) as shown:
        shown.advance(1)
    err = capsys.readouterr().err
    assert SHOWN in err
    assert "\x1b[2J" not in err


def test_an_error_has_two_lines_whatever_the_names_are():
    assert str(UsageError(HOSTILE, HOSTILE, HOSTILE)) == f"{SHOWN}: {SHOWN}.\n{SHOWN}."


def test_an_error_of_a_command_is_printed_inert(shapelake, tmp_path):
    code, _, err = shapelake("status", "--lake", tmp_path / "\x1b[2J\n[/]")
    assert code == 2
    assert len(err.splitlines()) == 2
    assert r"\x1b[2J\n[/]" in err


def test_alerts_and_lines_of_a_watch_are_printed_inert(shapelake, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    stub.history(folder, [])
    folder.mkdir(exist_ok=True)

    def watch_folder(config, write_line, *_):
        write_line(HOSTILE)
        return 0

    monkeypatch.setattr("pipeline.watch.watch_folder", watch_folder)
    code, out, _ = shapelake("watch", folder, "--corpus", "random-uniform", "--nice", 0)
    assert code == 0
    assert out.splitlines()[-1].endswith(f"Z  {SHOWN}")
    assert_inert(out)


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1")


def test_csv_has_no_formulas_and_plain_numbers(lake, shapelake):
    texts = ", ".join(f"'{text}'" for text in FORMULAS)
    sql = f"select -1 as number, -1.5 as decimal, 'a-b' as plain, unnest([{texts}]) as \"=text\""
    code, out, _ = shapelake("query", sql, "--lake", lake.uri, "--csv")
    rows = list(csv.reader(io.StringIO(out)))
    assert code == 0
    assert rows[0] == ["number", "decimal", "plain", "'=text"]
    assert rows[1:] == [["-1", "-1.5", "a-b", f"'{text}"] for text in FORMULAS]


def test_csv_on_a_terminal_is_inert(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    render.print_csv(["a"], [[HOSTILE]])
    assert_inert(capsys.readouterr().out)


PRINTERS = {
    "pipeline/terminal.py": {"print"},
    "pipeline/progress.py": {"Console"},
    "pipeline/sweep/run_progress.py": {"Console", "self.console.print"},
    "pipeline/render/tables.py": {"PlainConsole", "PlainConsole().print"},
    "pipeline/render/results.py": {"print"},  # JSON
    "pipeline/cli/app.py": {"typer.echo"},  # JSON
    "pipeline/demo/__init__.py": {"Console"},
}
"""Files that write to the terminal directly, each tested above; all others use `pipeline.terminal`."""


def test_everything_printed_passes_through_one_module():
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        printing = {
            call for call in calls if call.endswith((".print", "Console", "echo", "stdout.write")) or call == "print"
        }
        assert printing == PRINTERS.get(path.relative_to(ROOT).as_posix(), set()), path
