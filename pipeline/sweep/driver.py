"""The loop: order, retries, back-off, drain. It owns every retry, and its only memory is the lake."""

import random
import signal
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.errors import LakeError
from pipeline.lake import Lake
from pipeline.spec import Cell
from pipeline.sweep import retry_policy
from pipeline.sweep.attempts import AttemptTracker
from pipeline.sweep.backend import Backend, LeftOutCells
from pipeline.sweep.circuit_breaker import CircuitBreaker
from pipeline.sweep.plan import Plan
from pipeline.sweep.run_progress import RunProgress
from pipeline.sweep.signals import SignalListener
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from pipeline.sweep.utilization import Utilization

HEARTBEAT_S = 10.0


@dataclass
class RunReport:
    """How a run ended."""

    committed: int = 0
    failures: dict[str, tuple[Cell, Outcome]] = field(default_factory=dict)
    """The last failure of each cell that is not committed, by cell id."""
    quarantined_cells: tuple[Cell, ...] = ()
    """Wanted cells that stood quarantined before the run."""
    left_out: tuple[LeftOutCells, ...] = ()
    """What no node can run, by model."""
    n_unfinished: int = 0
    """Wanted cells neither committed nor failed: the run was told to stop, or stopped itself."""
    signal_number: int = 0
    stop_reason: str = ""
    """Why the driver gave up, where it did."""

    @property
    def exit_code(self) -> int:
        """0 all wanted cells are committed; 143 SIGTERM has left work for a rerun, whatever failed besides; 1 something
        failed, stands quarantined or is left out, or the run gave up."""
        if self.signal_number and self.n_unfinished and not self.stop_reason:
            return 128 + self.signal_number
        return 1 if self.failures or self.quarantined_cells or self.left_out or self.stop_reason else 0


@dataclass(order=True)
class _QueuedTask:
    """A task that may start at `ready_at`; fewest attempts first, so that no task is starved by a bad one. But what one
    node could not run is tried on another at once: if none can, that is seen before every task has tried."""

    rank: int
    shuffled: float
    task: Task = field(compare=False)
    ready_at: float = field(compare=False, default=0.0)
    alone: bool = field(compare=False, default=False)


class Driver:
    """One run of a plan on a backend."""

    def __init__(self, plan: Plan, lake: Lake, backend: Backend, run_id: str, progress: RunProgress) -> None:
        self.plan, self.lake, self.backend, self.run_id, self.progress = plan, lake, backend, run_id, progress
        too_large = backend.find_too_large(plan.todo)
        self.cells = {cell.id: cell for cell in plan.todo if cell.id not in too_large}
        self.attempt_tracker = AttemptTracker(plan, lake, run_id)
        models = Counter((c.checkpoint.model, too_large[c.id]) for c in plan.todo if c.id in too_large)
        left_out = tuple(LeftOutCells(model, n, why) for (model, why), n in models.items())
        self.report = RunReport(quarantined_cells=plan.quarantined_cells, left_out=left_out)
        self.rng = random.Random(run_id)
        self.running: dict[str, _QueuedTask] = {}
        self.contents_to_label: set[str] = set()
        self.circuit_breaker = CircuitBreaker()
        self.utilization = Utilization()
        self.lake_failures = 0
        self.paused_until = self.next_heartbeat_at = 0.0
        self.waiting = sorted(self._make_queued_task(task) for task in self._tasks())

    def run(self) -> RunReport:
        """Work until nothing is left, a signal has drained the run, or the circuit breaker stops it."""
        for one in self.report.left_out:
            self.progress.report_left_out(one)
        with SignalListener(self._on_signal):
            drained_at = float("inf")
            self._show()
            while self.running or (self.waiting and not self._stopping):
                self._submit()
                for task, outcomes in self.backend.wait(self._patience_s()):
                    self._handle_outcomes(self.running.pop(task.checkpoint.content).task, outcomes)
                self._show()
                if self._stopping:
                    for task in self.backend.withdraw():
                        insort(self.waiting, self.running.pop(task.checkpoint.content))
                    drained_at = min(drained_at, time.monotonic() + self.plan.sweep.resources.drain_s)
                if time.monotonic() > drained_at:
                    break
        for waiting in (*self.waiting, *self.running.values()):  # their next try is left to a rerun: no failure yet
            for cell in waiting.task.cells:
                self.report.failures.pop(cell.id, None)
        if not self.report.stop_reason:
            self._write_best_effort(self.attempt_tracker.quarantine_exhausted)
        self.report.n_unfinished = len(self.cells) - self.report.committed - len(self.report.failures)
        self._show(last=True)
        return self.report

    @property
    def _stopping(self) -> bool:
        return bool(self.report.signal_number or self.report.stop_reason)

    def _tasks(self) -> list[Task]:
        by_content: dict[str, list[Cell]] = {}
        for cell in self.cells.values():
            by_content.setdefault(cell.checkpoint.content, []).append(cell)
        return [
            Task(
                lake=self.lake.uri,
                run_id=self.run_id,
                checkpoint=cells[0].checkpoint,
                cells=tuple(cells),
                resources=self.plan.sweep.resources,
                attempt=1 + max(self.attempt_tracker.failure_counts(c).total() for c in cells),
                batch_halvings=max(self.attempt_tracker.failure_counts(c)["oom"] for c in cells),
                memory_slots=1 + max(self.attempt_tracker.failure_counts(c)["host_oom"] for c in cells),
            )
            for cells in by_content.values()
        ]

    def _make_queued_task(self, task: Task, delay_s: float = 0.0) -> _QueuedTask:
        strikes = [self.attempt_tracker.failure_counts(cell) for cell in task.cells]
        rank = 0 if any(strike["setup"] for strike in strikes) else task.attempt
        return _QueuedTask(
            rank,
            self.rng.random(),
            task,
            time.monotonic() + delay_s,
            any(map(retry_policy.is_last_crash_attempt, strikes)),
        )

    def _submit(self) -> None:
        """Fill the backend; a task on its last try runs alone."""
        while not self._stopping and len(self.running) < self.backend.capacity:
            now = time.monotonic()
            ready = (w for w in self.waiting if w.ready_at <= now and now >= self.paused_until)
            first = next(ready, None)
            if first is None or any(w.alone for w in self.running.values()) or (first.alone and self.running):
                return
            self.waiting.remove(first)
            self.running[first.task.checkpoint.content] = first
            self.backend.submit(first.task)

    def _patience_s(self) -> float:
        if self.running:
            return 1.0
        next_at = max(min((w.ready_at for w in self.waiting), default=0.0), self.paused_until)
        time.sleep(min(max(next_at - time.monotonic(), 0.0), 0.5))
        return 0.0

    def _handle_outcomes(self, task: Task, outcomes: list[Outcome]) -> None:
        """Count what is committed, record what failed, and queue what deserves another try."""
        try:
            outcomes = self._reconcile_with_lake(outcomes)
            verdicts = [(self.cells[o.cell_id], o, o.ok or self._failed(o, task)) for o in outcomes]
        except LakeError as error:
            outcomes = fail_all_cells(task, "infra", str(error))
            verdicts = [(self.cells[o.cell_id], o, True) for o in outcomes]
        for cell, outcome, more in verdicts:
            self._committed(cell, outcome) if outcome.ok else self._report(cell, outcome, more)
        if infra := [outcome.message for outcome in outcomes if outcome.error_class == "infra"]:
            self._lake_failed(infra[0])
        elsewhere = all(more and outcome.error_class == "setup" for _, outcome, more in verdicts)
        if not elsewhere:  # on another node it may yet go well
            self.report.stop_reason = self.report.stop_reason or self.circuit_breaker.record_task(
                task.checkpoint.content, outcomes
            )
        if self.circuit_breaker.is_disarmed:
            self._write_best_effort(self.attempt_tracker.quarantine_exhausted)
        if again := [(cell, outcome) for cell, outcome, more in verdicts if more and not outcome.ok]:
            self._retry(task, again)

    def _reconcile_with_lake(self, outcomes: list[Outcome]) -> list[Outcome]:
        """A worker that died may have committed some of its cells before: the lake is right, not the outcome.

        Its cells run in order, so of the others only the first can have killed it; the rest never began.
        """
        if all(outcome.ok for outcome in outcomes):
            return outcomes
        there = self.lake.committed_cell_ids()
        known = [Outcome(cell_id=o.cell_id) if not o.ok and o.cell_id in there else o for o in outcomes]
        dead = [o for o in known if o.error_class in retry_policy.WORKER_FATAL]
        return [o.model_copy(update={"error_class": "not_begun"}) if o in dead[1:] else o for o in known]

    def _committed(self, cell: Cell, outcome: Outcome) -> None:
        self.report.committed += 1
        self.utilization.add_compute_time(outcome.compute_s)
        self.report.failures.pop(cell.id, None)
        self.lake_failures = 0
        self.progress.report_commit(cell, outcome)
        self.contents_to_label.add(cell.checkpoint.content)

    def _failed(self, outcome: Outcome, task: Task) -> bool:
        """True if the cell may be tried again in this run."""
        if outcome.error_class in ("infra", "not_begun"):
            return True
        return self.attempt_tracker.record_failure(self.cells[outcome.cell_id], outcome, task)

    def _report(self, cell: Cell, outcome: Outcome, again: bool) -> None:
        if outcome.error_class != "not_begun":
            self.report.failures[cell.id] = (cell, outcome)
            self.progress.report_failure(cell, outcome, again)

    def _lake_failed(self, message: str) -> None:
        """Begin nothing for a while, and take what fails meanwhile for the same failure; the third in a row without a
        commit between them ends the run."""
        if time.monotonic() < self.paused_until:
            return
        self.lake_failures += 1
        self.paused_until = time.monotonic() + retry_policy.draw_backoff_s("infra", self.lake_failures, self.rng)
        if self.lake_failures >= retry_policy.MAX_FAILURES["infra"]:
            self.report.stop_reason = f"the lake cannot be written: {message}"

    def _retry(self, task: Task, again: list[tuple[Cell, Outcome]]) -> None:
        delays = [
            retry_policy.draw_backoff_s(
                outcome.error_class, self.attempt_tracker.failure_counts(cell)[outcome.error_class], self.rng
            )
            for cell, outcome in again
            if outcome.error_class is not None
        ]
        following = task.model_copy(
            update={
                "cells": tuple(cell for cell, _ in again),
                "attempt": task.attempt + 1,
                "batch_halvings": task.batch_halvings + any(outcome.error_class == "oom" for _, outcome in again),
                "memory_slots": task.memory_slots + any(outcome.error_class == "host_oom" for _, outcome in again),
            }
        )
        insort(self.waiting, self._make_queued_task(following, max(delays)))

    def _show(self, last: bool = False) -> None:
        self.utilization.add_slot_time(self.backend.slots)
        measuring = len(self.backend.measuring)
        self.progress.refresh(measuring, len(self.running) - measuring, len(self.report.failures), self._stopping)
        if last or time.monotonic() > self.next_heartbeat_at:
            self.next_heartbeat_at = time.monotonic() + HEARTBEAT_S
            self._record_labels()
            self._write_best_effort(lambda: self.lake.heartbeat(self.run_id, self._heartbeat_fields(ended=last)))

    def _record_labels(self) -> None:
        """Record the labels of what was committed since the last time; listing them for each cell would not scale."""
        contents, self.contents_to_label = self.contents_to_label, set()
        labels = [c for c in self.plan.checkpoints if c.content in contents] if contents else []
        if labels:
            self._write_best_effort(lambda: self.lake.record_labels(labels))

    def _heartbeat_fields(self, ended: bool) -> dict[str, object]:
        return {
            "sweep": self.plan.sweep.name,
            "wanted": len(self.plan.cells),
            "to_run": len(self.cells),
            "committed": self.report.committed,
            "failed": len(self.report.failures),
            "left_out": [one._asdict() for one in self.report.left_out],
            "busy": self.utilization.share,
            "gpu_wait_s": round(self.backend.gpu_wait_s, 1),
            "running": [task.checkpoint.label for task in self.backend.measuring],
            "ended": ended,
        }

    def _write_best_effort(self, write: Callable[[], object]) -> None:
        """A record that the next run makes good: if the lake refuses it now, that is said and no more."""
        try:
            write()
        except LakeError as error:
            self.progress.print_line(str(error))

    def _on_signal(self, number: int) -> None:
        if self.report.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.report.signal_number = number
        self.progress.print_line("stopping: running tasks finish; what is committed stays in the lake")
