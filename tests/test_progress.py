"""Progress appears in waits of more than two seconds and not before."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import measure, progress
from pipeline.catalog.local_histories import discover_history
from pipeline.measurement.loaded_checkpoint import load_checkpoint
from pipeline.progress import Progress, track, track_bytes
from pipeline.spec import Local
from pipeline.sweep.run_progress import RunProgress
from tests.support import tiny_cells
from tests.support import tiny_checkpoints as tiny


class Clock:
    """Clock whose time is set by the test."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_off_a_terminal_a_line_comes_after_two_seconds_and_then_every_thirty(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("Cleaning", 100_000) as shown:
        for _ in range(100):
            clock.now += 0.5
            shown.advance(1000)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", ["Cleaning: 4,000 of 100,000 bytes", "Cleaning: 64,000 of 100,000 bytes"])


def test_hashing_many_small_files_shows_itself_as_one_long_wait(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five checkpoints of two seconds each, each too short to report alone; bytes with a cached hash count as done."""
    advance = Progress.advance

    def slow(self: Progress, amount: int) -> None:
        clock.now += 1.0
        advance(self, amount)

    for step in range(5):
        (tmp_path / "runs" / f"step{step}").mkdir(parents=True)
        (tmp_path / "runs" / f"step{step}" / "model.safetensors").write_bytes(bytes(1000))
        (tmp_path / "runs" / f"step{step}" / "config.json").write_text("{}")
    monkeypatch.setattr(Progress, "advance", slow)
    discover_history(Local(local=str(tmp_path / "runs")))
    assert capsys.readouterr().err.splitlines() == ["Hashing runs: 1,002 of 5,010 bytes"]


def test_on_a_terminal_a_bar_appears_after_two_seconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("Tokenising", 4, "contexts") as shown:
        shown.advance(1)
        assert capsys.readouterr().err == ""
        clock.now = 3.0
        shown.advance(1)
    assert re.search(r"Tokenising.*2/4", capsys.readouterr().err)


def test_metered_blocks_are_the_same_blocks() -> None:
    assert list(track_bytes(iter([b"a", b"", b"bc"]), "x", None)) == [b"a", b"", b"bc"]


def test_tracked_items_count_by_their_size_once_the_next_is_asked_for(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in track(["ab", "cde"], "Reading", 5, "letters", len):
        clock.now += 3.0
    assert capsys.readouterr().err.splitlines() == ["Reading: 2 of 5 letters"]


def test_a_bar_inside_a_run_is_drawn_below_the_bar_of_the_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    out = io.StringIO()
    with RunProgress(2, Console(file=out, force_terminal=True, width=200)) as run:
        with Progress("some cell", 4, "contexts") as shown:
            clock.now = 3.0
            shown.advance(1)
            run.bar.refresh()
        assert re.search(r"cells .*0/2.*\n.*some cell .*1/4", out.getvalue())
    assert progress._live_consoles == []


def test_a_measurement_shows_contexts_and_then_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0)
    wanted = tiny_cells.cell(tiny.history(tmp_path / "runs", [1]) / "step1")
    loaded = load_checkpoint(wanted.checkpoint, wanted.recipe, tiny_cells.CPU)
    capsys.readouterr()
    rows = measure.measure(wanted, loaded, 512)
    contexts, layers = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"{wanted.name}: \d+ of \d+ contexts", contexts)
    assert layers == f"{wanted.name}: 1 of {len(rows)} layers"


def test_a_run_shows_how_far_the_cells_of_its_workers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sweep.run_progress.PRINT_EVERY_S", 0)
    monkeypatch.setattr("pipeline.sweep.run_progress.DRAW_EVERY_S", 0)
    for terminal in (True, False):
        out = io.StringIO()
        with RunProgress(2, Console(file=out, force_terminal=terminal, width=300)) as run:
            run.refresh(1, 0, 0, stopping=False, in_cells=lambda: ["some cell: 96 of 512 contexts"])
        assert "some cell: 96 of 512 contexts" in out.getvalue()
        assert "no estimate yet" in out.getvalue()
