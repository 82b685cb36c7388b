"""Progress of waits over two seconds: a bar on a terminal, else a line on standard error every 30 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.terminal import escape_control, print_line

if TYPE_CHECKING:
    import rich.progress

SHOW_AFTER_S = 2.0
REDRAW_S = 0.1
PRINT_EVERY_S = 30.0


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
        """Text after the amount, such as the expected end; begins with a comma."""
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Progress:
        self._due = time.monotonic() + SHOW_AFTER_S
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, amount: int) -> None:
        self.done += amount
        if time.monotonic() < self._due:
            return
        if sys.stderr.isatty():
            self._draw()
            self._due = time.monotonic() + REDRAW_S
        else:
            total = f" of {self.total:,}" if self.total else ""
            print_line(f"{self.label}: {self.done:,}{total} {self.unit}{self.note}", err=True)
            self._due = time.monotonic() + PRINT_EVERY_S

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _bar(self.unit)
            self._bar.add_task(self.label, total=self.total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self.done, description=f"{self.label}{self.note}")


def track_bytes(blocks: Iterable[bytes], label: str, total: int | None) -> Iterator[bytes]:
    """Yield the blocks unchanged and report their bytes as progress."""
    with Progress(label, total) as progress:
        for block in blocks:
            yield block
            progress.advance(len(block))


def _bar(unit: str) -> rich.progress.Progress:
    import rich.progress as bars  # imported late: most commands never show a bar
    from rich.console import Console

    amount = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    label = bars.TextColumn("{task.description}", markup=False)
    columns = (label, bars.BarColumn(), amount, bars.TimeRemainingColumn())
    return bars.Progress(*columns, console=Console(stderr=True), transient=True)
