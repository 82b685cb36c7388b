"""What each cell has cost so far: strikes from the lake and from this run, and the verdict after each failure."""

from collections import Counter

from pipeline.lake import Failure, Lake, Tombstone
from pipeline.spec import Cell
from pipeline.sweep import retry_policy
from pipeline.sweep.plan import Plan, reproduction_command
from pipeline.sweep.task import Outcome, Task


class AttemptTracker:
    """Counts failures, writes them to the lake, and quarantines what is out of tries."""

    def __init__(self, plan: Plan, lake: Lake, run_id: str) -> None:
        self._lake, self._run_id = lake, run_id
        self._verdicts: list[Tombstone] = []
        self._strikes = {
            cell.id: retry_policy.keep_quarantining_failures(plan.attempts.get(cell.id, Counter()))
            for cell in plan.todo
        }

    def failure_counts(self, cell: Cell) -> Counter[str]:
        return self._strikes[cell.id]

    def record_failure(self, cell: Cell, outcome: Outcome, task: Task) -> bool:
        """Record a failure; True if the cell may be tried again in this run.

        Raises:
            LakeError: the lake cannot take the record.
        """
        error_class = outcome.error_class
        assert error_class is not None
        strikes = self._strikes[cell.id]
        strikes[error_class] += 1
        failure = self._failure(cell, outcome, task)
        self._lake.record_attempt(failure)
        if not retry_policy.is_exhausted(error_class, strikes):
            return error_class not in retry_policy.NOT_RETRIED_IN_RUN
        if error_class not in retry_policy.NEVER_QUARANTINED:
            self._verdicts.append(Tombstone.from_failure(failure))
        return False

    def quarantine_exhausted(self) -> None:
        """Quarantine the cells that are out of tries; not before it is sure that the code is not to blame.

        Raises:
            LakeError: the lake cannot take the tombstones; those that it has not taken are kept for the next call.
        """
        while self._verdicts:
            self._lake.quarantine(self._verdicts[0])
            del self._verdicts[0]

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
