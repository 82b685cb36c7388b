"""Progress of work that takes over two seconds: a bar on a terminal, else a line on standard error every 30 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pipeline.terminal import escape_control, log_line, logs_as_json

if TYPE_CHECKING:
    import rich.console
    import rich.progress

T = TypeVar("T")

SHOW_AFTER_S = 2.0
REDRAW_S = 0.1
PRINT_EVERY_S = 30.0
REPORT_EVERY_S = 2.0
_listener: Callable[[str], object] | None = None
"""Function that receives the progress of this process as text, so that another process can show it."""
_live_consoles: list[rich.console.Console] = []
"""Consoles that have a live display now. A bar that starts meanwhile is drawn on the first of them."""


class Progress:
    """Progress counter: `with Progress("Cleaning", total) as progress: progress.advance(n)`.

    Args:
        label: name of the work in progress.
        total: total amount; None if unknown.
        unit: `bytes`, or the plural name of the items counted.
    """

    def __init__(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.label, self.total, self.unit = escape_control(label), total, unit
        self.done = 0
        self.note = ""
        """Text that is shown after the amount, such as the expected end; empty, or begins with a comma."""
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Progress:
        self._due = self._report_due = time.monotonic() + SHOW_AFTER_S
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, amount: int) -> None:
        self.done += amount
        if _listener and time.monotonic() >= self._report_due:
            _listener(self._text)
            self._report_due = time.monotonic() + REPORT_EVERY_S
        if time.monotonic() < self._due:
            return
        if sys.stderr.isatty() and not logs_as_json():
            self._draw()
            self._due = time.monotonic() + REDRAW_S
        else:
            log_line(self._text, work=self.label, done=self.done, total=self.total, unit=self.unit)
            self._due = time.monotonic() + PRINT_EVERY_S

    def complete_step(self, next_step: str = "") -> None:
        """Count one part of the work as done, and show `next_step`, the name of the part that begins now."""
        self.note = f", {next_step}" if next_step else ""
        self.advance(1)

    @property
    def _text(self) -> str:
        total = f" of {self.total:,}" if self.total else ""
        return f"{self.label}: {self.done:,}{total} {self.unit}{self.note}"

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _bar(self.unit)
            self._bar.add_task(self.label, total=self.total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self.done, description=f"{self.label}{self.note}")


def track(
    items: Iterable[T], label: str, total: int | None, unit: str, size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yield the items unchanged; an item advances the bar by `size(item)` once the next item is requested.

    If the total is one, no bar is shown, since it could only jump from 0 to 1; the item may report its own progress.
    """
    if total == 1:
        yield from items
        return
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance(size(item))


@contextmanager
def share_console(console: rich.console.Console) -> Iterator[None]:
    """Draw the bars that start inside this context on `console`, which has a live display of its own."""
    _live_consoles.append(console)
    try:
        yield
    finally:
        _live_consoles.remove(console)


@contextmanager
def report_progress(listener: Callable[[str], object]) -> Iterator[None]:
    """Pass the progress of all work inside this context to `listener` as text, every REPORT_EVERY_S seconds."""
    global _listener
    _listener = listener
    try:
        yield
    finally:
        _listener = None


def track_bytes(blocks: Iterable[bytes], label: str, total: int | None) -> Iterator[bytes]:
    """Yield the blocks unchanged and report their bytes as progress."""
    return track(blocks, label, total, "bytes", len)


def _bar(unit: str) -> rich.progress.Progress:
    import rich.progress as bars  # imported late: most commands never show a bar
    from rich.console import Console

    amount = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    label = bars.TextColumn("{task.description}", markup=False)
    columns = (label, bars.BarColumn(), amount, bars.TimeRemainingColumn())
    console = _live_consoles[0] if _live_consoles else Console(stderr=True)
    return bars.Progress(*columns, console=console, transient=True)
