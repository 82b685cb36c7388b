"""Attempts: failure counts of each cell, from the lake and from this run, and the quarantine after the last attempt.

A cell is quarantined only on evidence about its checkpoint. A `permanent` failure is such evidence. Any other failure
may be the host's fault: it is recorded as `unconfirmed` and counts once the host has succeeded at another checkpoint,
or at the canary task. The driver retries a cell only after its last failure is confirmed.
"""

import random
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.lake import Failure, Lake
from pipeline.spec import Cell
from pipeline.sweep.plan import Plan, reproduction_command
from pipeline.sweep.retry_policy import (
    POLICIES,
    ErrorClass,
    count_across_runs,
    count_retries,
    draw_backoff_s,
    is_exhausted,
)
from pipeline.sweep.task import Outcome, Task


class _Unconfirmed(NamedTuple):
    """A recorded failure that may be the host's fault."""

    failure: Failure
    key: str
    content: str
    error_class: ErrorClass


class AttemptTracker:
    """Creates first tasks and retries, records failures in the lake, and quarantines cells without an attempt left."""

    def __init__(self, plan: Plan, lake: Lake, run_id: str, rng: random.Random) -> None:
        self._lake, self._run_id, self._rng, self._sweep = lake, run_id, rng, plan.sweep
        self._unconfirmed: dict[str, _Unconfirmed] = {}
        """Unconfirmed failure of each cell, by cell id."""
        self._exhausted: dict[str, Failure] = {}
        """Last failure of each cell that has no attempt left."""
        self._failures = {cell.id: count_across_runs(plan.attempts.get(cell.id, Counter())) for cell in plan.todo}

    def failure_counts(self, cell: Cell) -> Counter[str]:
        return self._failures[cell.id]

    def first_tasks(self, cells: Iterable[Cell]) -> list[Task]:
        """Create the first task of each checkpoint; earlier runs' failures may halve its batch or raise its memory."""
        by_content: dict[str, list[Cell]] = {}
        for cell in cells:
            by_content.setdefault(cell.checkpoint.content, []).append(cell)
        return [self._first_task(tuple(group)) for group in by_content.values()]

    def _first_task(self, cells: tuple[Cell, ...]) -> Task:
        failures = [self._failures[cell.id] for cell in cells]
        return Task(
            lake=self._lake.uri,
            lake_id=self._lake.identity.expected,
            run_id=self._run_id,
            checkpoint=cells[0].checkpoint,
            cells=cells,
            resources=self._sweep.resources,
            similarity=self._sweep.similarity,
            attempt=1 + max(counts.total() for counts in failures),
            batch_halvings=max(count_retries(counts, "half_batch") for counts in failures),
            memory_slots=1 + max(count_retries(counts, "more_memory") for counts in failures),
        )

    def retry_of(self, task: Task, failed: list[Outcome]) -> tuple[Task, float]:
        """Return the task that retries the failed cells, changed by their `on_retry` policies, and the delay in s."""
        classes: dict[str, ErrorClass] = {o.cell_id: o.error_class for o in failed if o.error_class}
        changes = [POLICIES[error_class].on_retry for error_class in classes.values()]
        retried = task.model_copy(
            update={
                "cells": tuple(cell for cell in task.cells if cell.id in classes),
                "attempt": task.attempt + 1,
                "batch_halvings": task.batch_halvings + ("half_batch" in changes),
                "memory_slots": task.memory_slots + ("more_memory" in changes),
            }
        )
        delays = (draw_backoff_s(name, self._failures[cell_id][name], self._rng) for cell_id, name in classes.items())
        return retried, max(delays)

    @property
    def unconfirmed_hosts(self) -> list[str]:
        """Hosts of the unconfirmed failures, oldest failure first."""
        return list(dict.fromkeys(one.failure.host for one in self._unconfirmed.values()))

    def find_unconfirmed_host(self, task: Task) -> str | None:
        """Host of an unconfirmed failure of the task's cells; None if the task may be retried."""
        return next((self._unconfirmed[c.id].failure.host for c in task.cells if c.id in self._unconfirmed), None)

    def record_failure(self, cell: Cell, outcome: Outcome, task: Task) -> bool:
        """Record a failed attempt; return True if the cell may be retried in this run.

        Raises:
            LakeError: the record cannot be written.
        """
        error_class = outcome.error_class
        assert error_class is not None
        policy, failures = POLICIES[error_class], self._failures[cell.id]
        if policy.scope == "run":
            return True  # not an attempt at this cell: the lake or Ray failed
        failures[error_class] += 1
        if policy.max_attempts is None:
            return True
        failure = self._failure(cell, outcome, task)
        key = self._lake.record_attempt(failure, confirmed=policy.quarantines != "if confirmed")
        if policy.quarantines == "if confirmed":
            self._unconfirmed[cell.id] = _Unconfirmed(failure, key, cell.checkpoint.content, error_class)
        if not is_exhausted(error_class, failures):
            return policy.retry_in_run and not is_exhausted("preempted", failures)
        if policy.quarantines != "no":
            self._exhausted[cell.id] = failure
        return False

    def confirm(self, host: str, content: str = "") -> None:
        """Confirm failures on a host that has now succeeded at the checkpoint `content` (empty: at the canary task).

        Failures of the same checkpoint stay unconfirmed. Failures on an unknown host are confirmed too.

        Raises:
            LakeError: a record cannot be written; its failure stays unconfirmed.
        """
        for cell_id, one in list(self._unconfirmed.items()):
            if one.failure.host in ("", host) and one.content != content:
                self._lake.confirm_attempt(one.failure, one.key)
                del self._unconfirmed[cell_id]

    def dismiss(self, host: str) -> None:
        """Reclassify the unconfirmed failures on a lost host as `preempted`, which only limits retries in this run."""
        for cell_id, one in list(self._unconfirmed.items()):
            if one.failure.host == host:
                self._failures[cell_id] += Counter({"preempted": 1})
                self._failures[cell_id][one.error_class] -= 1
                self._exhausted.pop(cell_id, None)
                del self._unconfirmed[cell_id]

    def quarantine_exhausted(self) -> None:
        """Write the tombstones of cells that have neither an attempt left nor an unconfirmed failure.

        Raises:
            LakeError: a tombstone cannot be written; the next run writes it after another attempt.
        """
        for cell_id, failure in self._exhausted.items():
            if cell_id not in self._unconfirmed:
                self._lake.quarantine(failure)

    def _failure(self, cell: Cell, outcome: Outcome, task: Task) -> Failure:
        return Failure(
            cell_id=cell.id,
            model=cell.checkpoint.model,
            model_key=cell.checkpoint.model_key,
            revision=cell.checkpoint.revision,
            corpus=cell.corpus.id,
            corpus_sha256=cell.corpus.sha256,
            recipe=cell.recipe.label,
            kind=cell.kind,
            error_class=str(outcome.error_class),
            message=outcome.message,
            traceback=outcome.traceback,
            command=reproduction_command(cell),
            run_id=self._run_id,
            attempt=task.attempt,
            batch_tokens=task.batch_tokens,
            host=outcome.host,
            seconds=outcome.seconds,
        )
