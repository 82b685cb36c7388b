"""Driver loop of a run: order, retries, back-off and drain. The driver owns every retry; its only state is the lake."""

import random
import signal
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.errors import LakeError
from pipeline.lake import Lake
from pipeline.spec import Cell
from pipeline.sweep.attempts import AttemptTracker
from pipeline.sweep.backend import Backend, LeftOutCells
from pipeline.sweep.circuit_breaker import CircuitBreaker
from pipeline.sweep.plan import Plan
from pipeline.sweep.retry_policy import POLICIES, ErrorClass, count_retries, draw_backoff_s, must_run_alone
from pipeline.sweep.run_progress import RunProgress, Utilization
from pipeline.sweep.signals import SignalListener
from pipeline.sweep.task import Outcome, Task, fail_all_cells

HEARTBEAT_S = 10.0


@dataclass
class RunReport:
    """Result of a run."""

    committed: int = 0
    failures: dict[str, tuple[Cell, Outcome]] = field(default_factory=dict)
    """Last failure of each cell that is not committed, by cell id."""
    quarantined_cells: tuple[Cell, ...] = ()
    """Wanted cells that were quarantined before the run."""
    left_out: tuple[LeftOutCells, ...] = ()
    """Cells that no node can run, by model."""
    n_unfinished: int = 0
    """Wanted cells neither committed nor failed, because the run was told to stop or stopped itself."""
    signal_number: int = 0
    stop_reason: str = ""
    """Reason why the driver stopped the run itself; empty if it did not."""

    @property
    def exit_code(self) -> int:
        """0 if all wanted cells are committed; 143 if SIGTERM left work for a rerun, even if cells failed too; 1 if a
        cell failed, is quarantined or was left out, or the driver stopped the run."""
        if self.signal_number and self.n_unfinished and not self.stop_reason:
            return 128 + self.signal_number
        return 1 if self.failures or self.quarantined_cells or self.left_out or self.stop_reason else 0


@dataclass(order=True)
class _QueuedTask:
    """A task that may start at `ready_at`. Fewest attempts first, so that a failing task starves no other, but
    a retry on another node (rank 0) goes first: a bad node is recognised before every task has failed on it."""

    rank: int
    shuffled: float
    task: Task = field(compare=False)
    ready_at: float = field(compare=False, default=0.0)
    alone: bool = field(compare=False, default=False)


class Driver:
    """One run of a plan on a backend.

    Args:
        too_large: reason by cell id for cells that no node of the backend can run.
    """

    def __init__(
        self, plan: Plan, lake: Lake, backend: Backend, run_id: str, progress: RunProgress, too_large: dict[str, str]
    ) -> None:
        self.plan, self.lake, self.backend, self.run_id, self.progress = plan, lake, backend, run_id, progress
        self.cells = {cell.id: cell for cell in plan.todo if cell.id not in too_large}
        self.attempts = AttemptTracker(plan, lake, run_id)
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
        self.waiting = sorted(self._queued(task) for task in self._tasks())

    def run(self) -> RunReport:
        """Work until no task is left, a signal has drained the run, or the circuit breaker stops it."""
        for cells in self.report.left_out:
            self.progress.report_left_out(cells)
        with SignalListener(self._on_signal):
            self._loop()
        for queued in (*self.waiting, *self.running.values()):  # their retries are left to a rerun: not failed yet
            for cell in queued.task.cells:
                self.report.failures.pop(cell.id, None)
        if not self.report.stop_reason:
            self._write_best_effort(self.attempts.quarantine_exhausted)
        self.report.n_unfinished = len(self.cells) - self.report.committed - len(self.report.failures)
        self._refresh(last=True)
        return self.report

    def _loop(self) -> None:
        drained_at = float("inf")
        self._refresh()
        while (self.running or (self.waiting and not self._stopping)) and time.monotonic() <= drained_at:
            self._submit()
            for task, outcomes in self.backend.wait(self._wait_timeout_s()):
                self._handle_outcomes(self.running.pop(task.checkpoint.content).task, outcomes)
            self._refresh()
            if self._stopping:
                for task in self.backend.withdraw():
                    insort(self.waiting, self.running.pop(task.checkpoint.content))
                drained_at = min(drained_at, time.monotonic() + self.plan.sweep.resources.drain_s)

    @property
    def _stopping(self) -> bool:
        return bool(self.report.signal_number or self.report.stop_reason)

    def _tasks(self) -> list[Task]:
        by_content: dict[str, list[Cell]] = {}
        for cell in self.cells.values():
            by_content.setdefault(cell.checkpoint.content, []).append(cell)
        return [self._task(tuple(cells)) for cells in by_content.values()]

    def _task(self, cells: tuple[Cell, ...]) -> Task:
        """First task of this run for these cells of one checkpoint, changed as failures of earlier runs ask."""
        failures = [self.attempts.failure_counts(cell) for cell in cells]
        return Task(
            lake=self.lake.uri,
            run_id=self.run_id,
            checkpoint=cells[0].checkpoint,
            cells=cells,
            resources=self.plan.sweep.resources,
            attempt=1 + max(counts.total() for counts in failures),
            batch_halvings=max(count_retries(counts, "half_batch") for counts in failures),
            memory_slots=1 + max(count_retries(counts, "more_memory") for counts in failures),
        )

    def _queued(self, task: Task, delay_s: float = 0.0) -> _QueuedTask:
        failures = [self.attempts.failure_counts(cell) for cell in task.cells]
        rank = 0 if any(count_retries(counts, "other_node") for counts in failures) else task.attempt
        alone = any(map(must_run_alone, failures))
        return _QueuedTask(rank, self.rng.random(), task, time.monotonic() + delay_s, alone)

    def _submit(self) -> None:
        """Fill the backend; a task that must run alone waits until no other task runs."""
        while not self._stopping and len(self.running) < self.backend.capacity:
            now = time.monotonic()
            ready = (queued for queued in self.waiting if queued.ready_at <= now and now >= self.paused_until)
            first = next(ready, None)
            if first is None or any(q.alone for q in self.running.values()) or (first.alone and self.running):
                return
            self.waiting.remove(first)
            self.running[first.task.checkpoint.content] = first
            self.backend.submit(first.task)

    def _wait_timeout_s(self) -> float:
        if self.running:
            return 1.0
        next_at = max(min((queued.ready_at for queued in self.waiting), default=0.0), self.paused_until)
        time.sleep(min(max(next_at - time.monotonic(), 0.0), 0.5))
        return 0.0

    def _handle_outcomes(self, task: Task, outcomes: list[Outcome]) -> None:
        """Count commits, record failures, and queue the cells that may be retried."""
        try:
            outcomes = self._reconcile_with_lake(outcomes)
            retry = {o.cell_id: self.attempts.record_failure(self.cells[o.cell_id], o, task) for o in _failed(outcomes)}
        except LakeError as error:
            outcomes = fail_all_cells(task, "infra", str(error))
            retry = dict.fromkeys((outcome.cell_id for outcome in outcomes), True)
        for outcome in outcomes:
            cell = self.cells[outcome.cell_id]
            if outcome.ok:
                self._on_commit(cell, outcome)
            else:
                self._on_failure(cell, outcome, retry[outcome.cell_id])
        self._check_lake(outcomes)
        self._check_circuit_breaker(task, outcomes, retry)
        if again := [outcome for outcome in _failed(outcomes) if retry[outcome.cell_id]]:
            self._retry(task, again)

    def _reconcile_with_lake(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Replace the outcomes of a dead worker by what the lake shows: it may have committed some of its cells.

        Cells run in order, so only the first uncommitted one can have ended the worker; the rest never began.
        """
        if all(outcome.ok for outcome in outcomes):
            return outcomes
        committed = self.lake.committed_cell_ids()
        known = [Outcome(cell_id=o.cell_id) if not o.ok and o.cell_id in committed else o for o in outcomes]
        lost = [o.cell_id for o in known if o.error_class and POLICIES[o.error_class].scope == "worker"]
        return [o.model_copy(update={"error_class": "not_begun"}) if o.cell_id in lost[1:] else o for o in known]

    def _on_commit(self, cell: Cell, outcome: Outcome) -> None:
        self.report.committed += 1
        self.utilization.add_compute_time(outcome.compute_s)
        self.report.failures.pop(cell.id, None)
        self.lake_failures = 0
        self.progress.report_commit(cell, outcome)
        self.contents_to_label.add(cell.checkpoint.content)

    def _on_failure(self, cell: Cell, outcome: Outcome, again: bool) -> None:
        if outcome.error_class and POLICIES[outcome.error_class].max_attempts is not None:
            self.report.failures[cell.id] = (cell, outcome)
            self.progress.report_failure(cell, outcome, again)

    def _check_lake(self, outcomes: list[Outcome]) -> None:
        """After a failed write to the lake, start nothing until the back-off has passed; failures meanwhile count as
        the same one. The third in a row without a commit in between stops the run."""
        refused = [o.message for o in _failed(outcomes) if o.error_class and POLICIES[o.error_class].scope == "lake"]
        if not refused or time.monotonic() < self.paused_until:
            return
        self.lake_failures += 1
        self.paused_until = time.monotonic() + draw_backoff_s("infra", self.lake_failures, self.rng)
        if self.lake_failures >= (POLICIES["infra"].max_attempts or 0):
            self.report.stop_reason = f"the lake cannot be written: {refused[0]}"

    def _check_circuit_breaker(self, task: Task, outcomes: list[Outcome], retry: Mapping[str, bool]) -> None:
        """Stop the run if the breaker trips; a task that goes to another node has not finished yet."""
        to_other_node = all(
            o.error_class and POLICIES[o.error_class].on_retry == "other_node" and retry[o.cell_id] for o in outcomes
        )
        if not to_other_node:
            reason = self.circuit_breaker.record_task(task.checkpoint.content, outcomes)
            self.report.stop_reason = self.report.stop_reason or reason
        if self.circuit_breaker.is_disarmed:
            self._write_best_effort(self.attempts.quarantine_exhausted)

    def _retry(self, task: Task, failed: list[Outcome]) -> None:
        """Queue the failed cells of a task again, changed as the policies of their failures ask."""
        classes: dict[str, ErrorClass] = {o.cell_id: o.error_class for o in failed if o.error_class}
        changes = [POLICIES[error_class].on_retry for error_class in classes.values()]
        cells = tuple(self.cells[cell_id] for cell_id in classes)
        retried = task.model_copy(
            update={
                "cells": cells,
                "attempt": task.attempt + 1,
                "batch_halvings": task.batch_halvings + ("half_batch" in changes),
                "memory_slots": task.memory_slots + ("more_memory" in changes),
            }
        )
        counts = (self.attempts.failure_counts(cell)[classes[cell.id]] for cell in cells)
        delays = [draw_backoff_s(c, n, self.rng) for c, n in zip(classes.values(), counts, strict=True)]
        insort(self.waiting, self._queued(retried, max(delays)))

    def _refresh(self, last: bool = False) -> None:
        """Update the progress display; every HEARTBEAT_S, write labels and the heartbeat."""
        self.utilization.add_slot_time(self.backend.slots)
        measuring = len(self.backend.measuring)
        self.progress.refresh(measuring, len(self.running) - measuring, len(self.report.failures), self._stopping)
        if last or time.monotonic() > self.next_heartbeat_at:
            self.next_heartbeat_at = time.monotonic() + HEARTBEAT_S
            self._record_labels()
            self._write_best_effort(lambda: self.lake.heartbeat(self.run_id, self._heartbeat_fields(ended=last)))

    def _record_labels(self) -> None:
        """Record the labels of everything committed since the last call, in one write."""
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
            "left_out": [cells._asdict() for cells in self.report.left_out],
            "busy": self.utilization.share,
            "gpu_wait_s": round(self.backend.gpu_wait_s, 1),
            "running": [task.checkpoint.label for task in self.backend.measuring],
            "ended": ended,
        }

    def _write_best_effort(self, write: Callable[[], object]) -> None:
        """Write a record that the next run would repair; if the lake refuses, print the error and go on."""
        try:
            write()
        except LakeError as error:
            self.progress.print_line(str(error))

    def _on_signal(self, number: int) -> None:
        if self.report.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.report.signal_number = number
        self.progress.print_line("stopping: running tasks finish; committed cells stay in the lake")


def _failed(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.ok]
