"""Attempts: failures of each cell, from the lake and from this run, and the quarantine that follows the last one."""

from collections import Counter

from pipeline.lake import Failure, Lake, Tombstone
from pipeline.spec import Cell
from pipeline.sweep.plan import Plan, reproduction_command
from pipeline.sweep.retry_policy import POLICIES, count_across_runs, is_exhausted
from pipeline.sweep.task import Outcome, Task


class AttemptTracker:
    """Counts failures per cell, records them in the lake, and quarantines cells that have no attempt left."""

    def __init__(self, plan: Plan, lake: Lake, run_id: str) -> None:
        self._lake, self._run_id = lake, run_id
        self._pending: list[Tombstone] = []
        self._failures = {cell.id: count_across_runs(plan.attempts.get(cell.id, Counter())) for cell in plan.todo}

    def failure_counts(self, cell: Cell) -> Counter[str]:
        return self._failures[cell.id]

    def record_failure(self, cell: Cell, outcome: Outcome, task: Task) -> bool:
        """Record a failed attempt; return True if the cell may be retried in this run.

        Raises:
            LakeError: the record cannot be written.
        """
        error_class = outcome.error_class
        assert error_class is not None
        policy, failures = POLICIES[error_class], self._failures[cell.id]
        if policy.max_attempts is None or policy.scope == "lake":
            return True  # no attempt at this cell: it never began, or its result could not be written
        failures[error_class] += 1
        failure = self._failure(cell, outcome, task)
        self._lake.record_attempt(failure)
        if not is_exhausted(error_class, failures):
            return policy.retry_in_run
        if policy.quarantines:
            self._pending.append(Tombstone.from_failure(failure))
        return False

    def quarantine_exhausted(self) -> None:
        """Write the pending tombstones. The driver calls this once the circuit breaker can no longer open.

        Raises:
            LakeError: a tombstone cannot be written; it stays pending for the next call.
        """
        while self._pending:
            self._lake.quarantine(self._pending[0])
            del self._pending[0]

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
