"""Counts of the failed attempts at each cell, in the lake and in this run, and quarantine after the last attempt.

A cell is quarantined only on evidence about its checkpoint. A `permanent` failure is such evidence. A failure of
another class that can quarantine, such as `crash`, may be the host's fault. It is recorded as `unconfirmed` and counts
once the host has succeeded at another checkpoint, or at the canary task. The driver retries the cell only then.
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
    """A failure that was recorded as `unconfirmed`, because it may be the host's fault."""

    failure: Failure
    key: str
    content: str
    error_class: ErrorClass


class AttemptTracker:
    """Creates first tasks and retries, records failures in the lake, and quarantines cells after their last attempt."""

    def __init__(self, plan: Plan, lake: Lake, run_id: str, rng: random.Random) -> None:
        self._lake, self._run_id, self._rng, self._sweep = lake, run_id, rng, plan.sweep
        self._unconfirmed: dict[str, _Unconfirmed] = {}
        """Maps a cell id to the unconfirmed failure of the cell; other cells have no entry."""
        self._exhausted: dict[str, Failure] = {}
        """Maps the id of each cell that has no attempt left to its last failure."""
        self._failures = {cell.id: count_across_runs(plan.attempts.get(cell.id, Counter())) for cell in plan.todo}

    def failure_counts(self, cell: Cell) -> Counter[str]:
        return self._failures[cell.id]

    def first_tasks(self, cells: Iterable[Cell]) -> list[Task]:
        """Create one task per checkpoint, which contains all of `cells` that belong to the checkpoint.

        Each out-of-memory failure that an earlier run recorded halves the batch again, or adds the memory of one slot.
        """
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
        """Return the task that retries the failed cells, and the seconds to wait before it may start.

        The policies of the failure classes (`on_retry`) may give this task a smaller batch or more memory than `task`.
        """
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
        """Hosts that have an unconfirmed failure; the host of the oldest failure comes first."""
        return list(dict.fromkeys(one.failure.host for one in self._unconfirmed.values()))

    def find_unconfirmed_host(self, task: Task) -> str | None:
        """Return the host of an unconfirmed failure at one of the task's cells; None if there is no such failure."""
        return next((self._unconfirmed[c.id].failure.host for c in task.cells if c.id in self._unconfirmed), None)

    def record_failure(self, cell: Cell, outcome: Outcome, task: Task) -> bool:
        """Record a failed attempt; return True if the cell may be retried in this run.

        Two kinds of failure are not recorded: a failure of the lake or of Ray, and one of a class without a limit of
        attempts. After these the cell may always be retried.

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
        """Confirm the unconfirmed failures on `host`, because a measurement has now succeeded there.

        Failures at the measured checkpoint itself stay unconfirmed. Failures whose host is not known are confirmed too.

        Args:
            content: content digest of the measured checkpoint; empty if the canary task succeeded.

        Raises:
            LakeError: a record cannot be written; its failure stays unconfirmed.
        """
        for cell_id, one in list(self._unconfirmed.items()):
            if one.failure.host in ("", host) and one.content != content:
                self._lake.confirm_attempt(one.failure, one.key)
                del self._unconfirmed[cell_id]

    def dismiss(self, host: str) -> None:
        """Count the unconfirmed failures on a lost host as `preempted`, no longer as failures of their own class.

        A `preempted` failure limits the retries in this run, but never quarantines a cell.
        """
        for cell_id, one in list(self._unconfirmed.items()):
            if one.failure.host == host:
                self._failures[cell_id] += Counter({"preempted": 1})
                self._failures[cell_id][one.error_class] -= 1
                self._exhausted.pop(cell_id, None)
                del self._unconfirmed[cell_id]

    def quarantine_exhausted(self) -> None:
        """Write the tombstone of each cell that has no attempt left and no unconfirmed failure.

        Raises:
            LakeError: a tombstone cannot be written. The next run then attempts the cell once more.
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
