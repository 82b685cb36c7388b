"""Progress appears in waits of more than two seconds and not before."""

import re
import sys
from pathlib import Path

import pytest

from pipeline import progress
from pipeline.catalog.local_histories import discover_history
from pipeline.progress import Progress, track_bytes
from pipeline.spec import Local


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
