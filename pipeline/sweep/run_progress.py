"""What a run shows while it works: a live bar on a terminal, else one line every 30 seconds."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipeline.spec import Cell
from pipeline.sweep.backend import LeftOutCells
from pipeline.sweep.task import Outcome

PRINT_EVERY_S = 30.0


class RunProgress:
    """Counts cells; use as a context manager."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.total, self.done = total, 0
        self.last = ""
        self.started = self.last_printed_at = time.monotonic()
        self.live = self.console.is_terminal
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}"),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("cells", total=total, failed="", last="")

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def report_commit(self, cell: Cell, outcome: Outcome) -> None:
        self.done += 1
        self.last = f"{cell.checkpoint.revision} {cell.corpus.id} {outcome.summary}"
        self.bar.update(self.task, completed=self.done, last=f"last: {self.last}")

    def report_failure(self, cell: Cell, outcome: Outcome, again: bool) -> None:
        state = "failed, to be tried again" if again else "failed"
        self.print_line(f"{state}: {cell.name}: {outcome.error_class}: {outcome.message.splitlines()[0]}")

    def report_left_out(self, some: LeftOutCells) -> None:
        self.total -= some.cells
        self.bar.update(self.task, total=self.total)
        self.print_line(str(some))

    def refresh(self, running: int, waiting: int, failures: int, stopping: bool) -> None:
        """Called every second or so; prints a plain line when it is time and nobody watches a bar.

        Args:
            waiting: tasks whose files are being fetched, or that wait for their turn.
            failures: cells that have failed and are not committed since.
        """
        self.bar.update(self.task, failed=f"[red]{failures} failed[/red]" if failures else "")
        if self.live or time.monotonic() - self.last_printed_at < PRINT_EVERY_S:
            return
        elapsed = time.monotonic() - self.started
        left = f"{elapsed / self.done * (self.total - self.done):.0f} s left" if self.done else "no estimate yet"
        state = "stopping, " if stopping else ""
        tasks = f"{running} tasks running, {waiting} being fetched or waiting"
        self.print_line(f"{state}{self.done}/{self.total} cells, {tasks}, {failures} failed, {left}")

    def print_line(self, line: str) -> None:
        """One line now, whatever the form."""
        self.last_printed_at = time.monotonic()
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
