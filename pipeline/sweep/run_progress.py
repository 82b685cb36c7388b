"""Display of a run: a live bar on a terminal, otherwise one line every 30 seconds; and the utilization of its slots."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipeline.progress import share_console
from pipeline.spec import Cell
from pipeline.sweep.backend import LeftOutCells
from pipeline.sweep.remaining_time import RemainingTime, format_remaining
from pipeline.sweep.task import Outcome
from pipeline.terminal import escape_control, escape_lines, log_line, logs_as_json

PRINT_EVERY_S, DRAW_EVERY_S = 30.0, 2.0


class RunProgress:
    """Display of the progress of a run, as a context manager. It counts the cells that the run reports.

    Args:
        expected_s: expected seconds of each cell to run, by id, for the estimate of the remaining time.
    """

    def __init__(
        self, total: int, console: Console | None = None, expected_s: Mapping[str, float] | None = None
    ) -> None:
        self.console = console or Console(stderr=True)
        self.total, self.done = total, 0
        self.last = ""
        self.last_printed_at = time.monotonic()
        self.remaining = RemainingTime(expected_s or {})
        self.live = self.console.is_terminal and not logs_as_json()
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}", style="red", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[last]}", markup=False),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("cells", total=total, failed="", left="", last="")

    def __enter__(self) -> "RunProgress":
        with ExitStack() as stack:
            stack.enter_context(self.bar)
            stack.enter_context(share_console(self.console))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def report_commit(self, cell: Cell, outcome: Outcome) -> None:
        self.done += 1
        self.remaining.add(cell.id, outcome.seconds)
        self.last = escape_control(f"{cell.checkpoint.revision} {cell.corpus.id} {outcome.summary}")
        self.bar.update(self.task, completed=self.done, last=f"last: {self.last}")

    def report_failure(self, cell: Cell, outcome: Outcome, again: bool) -> None:
        state = "failed, will be retried" if again else "failed"
        first = next(iter(outcome.message.splitlines()), "")
        text = escape_control(f"{state}: {cell.name}: {outcome.error_class}: {first}")
        self.print_line(
            text, "warning", cell=cell.name, cell_id=cell.id, error_class=outcome.error_class, retried=again
        )

    def report_left_out(self, left_out: LeftOutCells) -> None:
        self.total -= left_out.cells
        self.remaining.drop(left_out.cells)
        self.bar.update(self.task, total=self.total)
        self.print_line(escape_control(str(left_out)))

    def refresh(
        self, running: int, waiting: int, failures: int, stopping: bool, in_cells: Callable[[], Sequence[str]] = tuple
    ) -> None:
        """Update the bar; without a terminal, print a line every PRINT_EVERY_S. Called about once a second.

        Args:
            waiting: tasks that are queued or whose files are being fetched.
            failures: cells whose last attempt failed and that are not committed.
            in_cells: returns the progress of the running cells; called when a line is printed.
        """
        left = format_remaining(self.remaining.estimate_s(running))
        self.bar.update(self.task, failed=f"{failures} failed" if failures else "", left=left)
        if time.monotonic() - self.last_printed_at < (DRAW_EVERY_S if self.live else PRINT_EVERY_S):
            return
        inside = list(in_cells())
        if self.live:
            self.last_printed_at = time.monotonic()
            self.bar.update(self.task, last=f"now: {'; '.join(inside)}" if inside else f"last: {self.last}")
            return
        state = "stopping, " if stopping else ""
        tasks = f"{running} tasks running, {waiting} fetching or queued"
        text = "; ".join([f"{state}{self.done}/{self.total} cells, {tasks}, {failures} failed, {left}", *inside])
        counts = {"done": self.done, "total": self.total, "running": running, "waiting": waiting, "failed": failures}
        counts |= {"left_s": self.remaining.estimate_s(running), "in_cells": inside}
        self.print_line(text, "info", **counts)

    def print_line(self, line: str, level: str = "info", **fields: object) -> None:
        """Print a message above the bar, or log it as JSON together with `fields`. An error may have two lines."""
        self.last_printed_at = time.monotonic()
        if logs_as_json():
            log_line(line, level, **fields)
            return
        self.console.print(escape_lines(line), highlight=False, markup=False, emoji=False, soft_wrap=True)


class Utilization:
    """Share of the slots' wall time that is spent in forward passes and metrics.

    The rest of the time goes into starting processes, fetching, loading, committing and waiting. A cell counts when it
    finishes, so the share is too low while cells are in flight.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._updated_at = clock()
        self._slots_s = self._compute_s = 0.0

    def add_slot_time(self, slots: int) -> None:
        """Add the slot-seconds since the previous call, with this number of slots."""
        now = self._clock()
        self._slots_s += slots * (now - self._updated_at)
        self._updated_at = now

    def add_compute_time(self, seconds: float) -> None:
        """Add the seconds that a cell spent in forward passes and metrics."""
        self._compute_s += seconds

    @property
    def share(self) -> float | None:
        """Return the share, between 0 and 1; None before any time has passed."""
        return round(self._compute_s / self._slots_s, 4) if self._slots_s else None
