"""A wait of more than two seconds shows itself, a shorter one does not."""

import logging
import re
import sys

import pytest

from pipeline.corpora import progress
from pipeline.corpora.progress import Progress, metered


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_in_a_log_a_line_comes_after_two_seconds_and_then_every_thirty(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("Cleaning", 100) as shown:
        for _ in range(100):
            clock.now += 0.5
            shown.advance(1)
    assert [record.getMessage() for record in caplog.records] == [
        "Cleaning: 4 of 100 bytes",
        "Cleaning: 64 of 100 bytes",
    ]


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
    assert list(metered(iter([b"a", b"", b"bc"]), "x", None)) == [b"a", b"", b"bc"]
