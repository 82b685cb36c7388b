"""A sweep over many Hub models measures the models that are listed while the Hub lists the others."""

import threading
from collections import Counter
from pathlib import Path

import pytest
import typer

from pipeline.cli.sweeps import run_sweep
from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.spec import Hub, Sweep
from pipeline.sweep import parts
from pipeline.sweep.plan import Plan
from pipeline.sweep.run import run_parts
from pipeline.sweep.run_report import RunReport, merge_reports
from tests.support import tiny_checkpoints as tiny
from tests.support.fake_hub import FakeHub

STEPS = (0, 1, 2)
SLOW_S = 1.5
"""Delay of each listing of lab/two: long enough that lab/one is listed first."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.history(tmp_path_factory.mktemp("local") / "small", list(STEPS))


@pytest.fixture
def slow_hub(hub: FakeHub, folders: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """Publish lab/one, and lab/two whose configs differ and whose files are listed slowly."""
    monkeypatch.setattr(parts, "PARTS_FROM_REQUESTS", 1)
    for name in ("one", "two"):
        for folder in sorted(folders.iterdir()):
            files = {path.name: path.read_bytes() for path in folder.iterdir()}
            files["config.json"] = files["config.json"].rstrip()[:-1] + b', "name": "%s"}' % name.encode()
            hub.repo(f"lab/{name}").commit(files, branch=folder.name)
    hub.fail("/api/models/lab/two/tree/*", stall=SLOW_S, times=None)
    return hub


@pytest.fixture
def two_models(text: Path) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "t",
            "checkpoints": [{"hub": "lab/two"}, {"hub": "lab/one"}],
            "corpora": [{"text": str(text)}],
            "recipe": tiny.RECIPE,
            "resources": {"cpus": 1},
        }
    )


def models(plan: Plan) -> set[str]:
    return {history.model for history in plan.histories}


def test_listed_models_are_measured_while_the_others_are_listed(slow_hub, two_models, tmp_path):
    lake, shown = Lake(tmp_path / "lake"), []
    show = lambda plan: shown.append((models(plan), plan.unlisted_models, len(lake.committed_cell_ids())))  # noqa: E731
    plan, report = run_parts(two_models, lake, "inline", show_plan=show)
    assert shown == [({"lab/one"}, 1, 0), ({"lab/two"}, 0, 3)]
    assert (report.committed, report.exit_code, report.unlisted_models) == (6, 0, 0)
    assert (len(plan.cells), len(plan.todo), len(plan.checkpoints)) == (6, 6, 6)
    asked = Counter(request.path for request in slow_hub.asked("/api/*"))
    assert set(asked.values()) == {1}, "no refs and no tree is requested twice"
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_short_listing_is_one_plan_and_costs_no_more_requests(slow_hub, two_models, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PARTS_FROM_REQUESTS", 7)
    slow_hub.faults.clear()
    shown: list[Plan] = []
    plan, report = run_parts(two_models, Lake(tmp_path / "lake"), "inline", show_plan=shown.append)
    assert shown == [plan]
    assert [history.model for history in plan.histories] == ["lab/two", "lab/one"]
    assert report.committed == 6
    assert Counter(request.path for request in slow_hub.asked("/api/*/refs")) == {
        "/api/models/lab/one/refs": 1,
        "/api/models/lab/two/refs": 1,
    }


def test_a_hub_that_stops_answering_ends_the_sweep_after_the_part_that_runs(
    slow_hub, two_models, tmp_path, short_waits, capsys
):
    lake = Lake(tmp_path / "lake")
    slow_hub.faults.clear()
    slow_hub.fail("/api/models/lab/two/tree/*", status=503, times=None)
    with pytest.raises(typer.Exit) as ended:
        run_sweep(two_models, lake.uri, "inline")
    assert ended.value.exit_code == 1
    out = capsys.readouterr().out
    assert "1 more model is being listed; this part runs meanwhile" in out
    assert "the Hub answered 503" in out
    assert "3 of 3 wanted cells are in the lake, 3 new, 1 model not listed (run again)" in out
    listed = {request.path for request in slow_hub.asked("*/lab/one/tree/*")}
    slow_hub.faults.clear()
    slow_hub.requests.clear()
    _, report = run_parts(two_models, lake, "inline")
    assert (report.committed, report.exit_code) == (3, 0)
    assert not listed & {request.path for request in slow_hub.requests}, "the rerun repeats no listing"


def test_an_error_in_a_later_part_is_reported_with_what_ran(slow_hub, two_models, tmp_path):
    """The tokenizer repo of lab/two does not exist, which its plan finds."""
    source = Hub(hub="lab/two", tokenizer="lab/none")
    sweep = two_models.model_copy(update={"checkpoints": (source, *two_models.checkpoints[1:])})
    plan, report = run_parts(sweep, Lake(tmp_path / "lake"), "inline")
    assert (report.committed, report.exit_code, report.unlisted_models) == (3, 1, 1)
    assert "lab/none" in report.stop_reason
    assert {cell.checkpoint.model for cell in plan.cells} == {"lab/one"}


def test_a_limit_holds_over_all_parts(slow_hub, two_models, tmp_path):
    plan, report = run_parts(two_models, Lake(tmp_path / "one"), "inline", limit=4)
    assert (report.committed, plan.left_out_by_limit, report.unlisted_models) == (4, 2, 0)


def test_a_used_up_limit_ends_the_sweep(slow_hub, two_models, tmp_path):
    plan, report = run_parts(two_models, Lake(tmp_path / "lake"), "inline", limit=3)
    assert (report.committed, plan.left_out_by_limit, report.unlisted_models, report.exit_code) == (3, 0, 1, 0)


def test_steps_must_match_a_checkpoint_of_some_part(slow_hub, two_models, tmp_path):
    lake = Lake(tmp_path / "lake")
    with pytest.raises(UsageError, match=r"--steps 7: no such step\.\nChoose one of the nearest steps: 2, 1, 0"):
        run_parts(two_models.model_copy(update={"steps": "7"}), lake, "inline")
    _, report = run_parts(two_models.model_copy(update={"steps": "1"}), lake, "inline")
    assert report.committed == 2


def test_a_checkpoint_in_two_models_is_measured_once_and_counted_once(slow_hub, two_models, folders, tmp_path):
    """The cell of step5 is done when the part with lab/two is planned."""
    files = {path.name: path.read_bytes() for path in (folders / "step0").iterdir()}
    for name in ("lab/one", "lab/two"):
        slow_hub.repo(name).commit(files, branch="step5")
    plan, report = run_parts(two_models, Lake(tmp_path / "lake"), "inline")
    assert (len(plan.cells), len(plan.todo), report.committed, report.n_done) == (7, 7, 7, 7)


def test_a_signal_with_models_left_to_list_asks_for_a_rerun() -> None:
    assert merge_reports([RunReport(committed=2, signal_number=15)], 3).exit_code == 143
    assert merge_reports([RunReport(committed=2, signal_number=15)], 0).exit_code == 0
    done, stopped = RunReport(committed=2), RunReport(committed=1, stop_reason="the lake is gone")
    merged = merge_reports([done, stopped], 1)
    assert (merged.committed, merged.exit_code, merged.stop_reason) == (3, 1, "the lake is gone")
