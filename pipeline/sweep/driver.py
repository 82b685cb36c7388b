"""Driver loop of a run: it orders and submits tasks, retries failed cells after a back-off, and drains on a signal.

Only the driver retries. Everything that must outlive the process is in the lake.
"""

import random
import signal
import time
from collections import Counter
from collections.abc import Mapping

from pipeline.errors import BackendLostError, LakeError
from pipeline.lake import Lake
from pipeline.spec import Cell
from pipeline.sweep.attempts import AttemptTracker
from pipeline.sweep.backend import Backend, LeftOutCells
from pipeline.sweep.canary import make_canary
from pipeline.sweep.circuit_breaker import CircuitBreaker
from pipeline.sweep.plan import Plan
from pipeline.sweep.retry_policy import POLICIES, count_retries, draw_backoff_s, must_run_alone
from pipeline.sweep.run_progress import RunProgress
from pipeline.sweep.run_recorder import RunRecorder
from pipeline.sweep.run_report import RunReport
from pipeline.sweep.signals import SignalListener
from pipeline.sweep.task import Outcome, Task, fail_all_cells, finished_cell_ids
from pipeline.sweep.task_queue import QueuedTask, TaskQueue


class Driver:
    """One run of a plan on a backend.

    Args:
        too_large: maps the id of each cell that no node of the backend can run to the reason. These are left out.
    """

    def __init__(
        self, plan: Plan, lake: Lake, backend: Backend, run_id: str, progress: RunProgress, too_large: dict[str, str]
    ) -> None:
        self.plan, self.lake, self.backend, self.run_id, self.progress = plan, lake, backend, run_id, progress
        self.cells = {cell.id: cell for cell in plan.todo if cell.id not in too_large}
        self.rng = random.Random(run_id)
        self.attempts = AttemptTracker(plan, lake, run_id, self.rng)
        models = Counter((c.checkpoint.model, too_large[c.id]) for c in plan.todo if c.id in too_large)
        left_out = tuple(LeftOutCells(model, n, why) for (model, why), n in models.items())
        self.report = RunReport(quarantined_cells=plan.quarantined_cells, left_out=left_out)
        self.queue = TaskQueue(self.rng)
        self.running: dict[str, QueuedTask] = {}
        self.done: set[str] = set()
        """Ids of the cells that were committed during the run, by this run or by another."""
        self.circuit_breaker = CircuitBreaker()
        self.suspect_hosts: set[str] = set()
        """Hosts on which the canary must succeed before any other task starts."""
        self.n_canaries = 0
        self.infra_failures = 0
        self.paused_until = 0.0
        self.recorder = RunRecorder(plan, lake, run_id, progress)
        for task in self.attempts.first_tasks(self.cells.values()):
            self._enqueue(task)

    def run(self) -> RunReport:
        """Run tasks until none is left, a signal has drained the run, or the run must stop itself."""
        for cells in self.report.left_out:
            self.progress.report_left_out(cells)
        with SignalListener(self._on_signal):
            try:
                self._loop()
            except BackendLostError as error:
                self._stop(str(error))
        self.recorder.write_best_effort(self._reconcile_unfinished)
        self.recorder.write_best_effort(self._check_claims)
        if not self.report.stop_reason:
            self.recorder.write_best_effort(self.attempts.quarantine_exhausted)
        self.report.n_unfinished = len(self.cells) - self.report.n_done - len(self.report.failures)
        self._refresh(last=True)
        return self.report

    def _loop(self) -> None:
        drained_at = float("inf")
        self._refresh()
        while (self.running or (self._has_work and not self._stopping)) and time.monotonic() <= drained_at:
            self._submit()
            for task, outcomes in self.backend.wait(self._wait_timeout_s()):
                self._handle_outcomes(self.running.pop(task.checkpoint.content).task, outcomes)
            self._refresh()
            if self._stopping:
                for task in self.backend.withdraw():
                    self.queue.put_back(self.running.pop(task.checkpoint.content))
                drained_at = min(drained_at, time.monotonic() + self.plan.sweep.resources.drain_s)

    @property
    def _stopping(self) -> bool:
        return bool(self.report.signal_number or self.report.stop_reason)

    @property
    def _has_work(self) -> bool:
        return bool(len(self.queue) or self.attempts.unconfirmed_hosts)

    def _enqueue(self, task: Task, delay_s: float = 0.0) -> None:
        failures = [self.attempts.failure_counts(cell) for cell in task.cells]
        rank = 0 if any(count_retries(counts, "other_node") for counts in failures) else task.attempt
        self.queue.add(task, rank, delay_s, alone=any(map(must_run_alone, failures)))

    def _submit(self) -> None:
        """Submit tasks until the backend is full."""
        while not self._stopping and len(self.running) < self.backend.capacity and (chosen := self._choose()):
            self.running[chosen.task.checkpoint.content] = chosen
            self.backend.submit(chosen.task)

    def _choose(self) -> QueuedTask | None:
        """Return the task to start now; None if no task may start. A canary comes first if one is due; then the first
        ready task that has no unconfirmed failure. A task that must run alone waits until no other task runs."""
        if time.monotonic() < self.paused_until:
            return None
        if self.suspect_hosts:
            return self._canary(self.suspect_hosts)
        first = self.queue.find_ready(lambda task: self.attempts.find_unconfirmed_host(task) is None)
        if first is None:
            return self._canary(self._hosts_to_confirm())
        if any(one.alone for one in self.running.values()) or (first.alone and self.running):
            return None
        self.queue.remove(first)
        return first

    def _hosts_to_confirm(self) -> set[str]:
        """Return hosts whose unconfirmed failures block a retry or, once no task is left, the end of the run."""
        if not self.running and not len(self.queue):
            return set(self.attempts.unconfirmed_hosts)
        hosts = (self.attempts.find_unconfirmed_host(queued.task) for queued in self.queue)
        return {host for host in hosts if host is not None}

    def _canary(self, hosts: set[str]) -> QueuedTask | None:
        """Create a canary for one of the hosts; return None if `hosts` is empty or another canary is running."""
        if not hosts or any(one.task.canary_host is not None for one in self.running.values()):
            return None
        self.n_canaries += 1
        host, resources = min(hosts), self.plan.sweep.resources
        return QueuedTask(0, 0.0, make_canary(host, self.lake.uri, self.run_id, self.n_canaries, resources))

    def _wait_timeout_s(self) -> float:
        if self.running:
            return 1.0
        next_at = max(self.queue.next_ready_at, self.paused_until)
        time.sleep(min(max(next_at - time.monotonic(), 0.0), 0.5))
        return 0.0

    def _handle_outcomes(self, task: Task, outcomes: list[Outcome]) -> None:
        """Count commits, record failures, and queue the cells that may be retried."""
        if task.canary_host is not None:
            self._handle_canary(task.canary_host, outcomes[0])
            return
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
        self._check_infra(outcomes)
        self._check_circuit_breaker(task, outcomes, retry)
        if again := [outcome for outcome in _failed(outcomes) if retry[outcome.cell_id]]:
            self._enqueue(*self.attempts.retry_of(task, again))

    def _handle_canary(self, host: str, outcome: Outcome) -> None:
        """If the canary succeeded, `host` is not at fault and its earlier failures count. If the host was lost, they
        are `preempted`. If the canary failed in another way, stop the run."""
        if outcome.ok:
            self.progress.print_line(
                f"the canary task succeeded on {host or outcome.host}, so earlier failures on this host now count"
            )
            self.suspect_hosts.discard(host)
            self._confirm(host)
        elif outcome.error_class == "preempted":
            self.suspect_hosts.discard(host)
            self.attempts.dismiss(host)
        else:
            failed = f"the canary task failed on {host or outcome.host} with {outcome.error_class}: {outcome.message}"
            self._stop(f"{failed}\nNo checkpoint is at fault: repair the host or Ray, then run the sweep again")

    def _reconcile_with_lake(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Correct the outcomes of a failed task: a cell that is in the lake counts as committed.

        The worker may have committed it before it died, or another run that held the lease may have committed it. The
        cells of a task run in order. If the worker died or ran out of memory, the first uncommitted cell is therefore
        the cause. The cells after it never began, or failed for the same reason; no attempt at them is counted.
        """
        if all(outcome.ok for outcome in outcomes):
            return outcomes
        committed = finished_cell_ids(self.lake, self.plan.sweep.similarity)
        known = [_as_committed(o) if not o.ok and o.cell_id in committed else o for o in outcomes]
        lost = [o.cell_id for o in known if o.error_class and POLICIES[o.error_class].scope == "worker"]
        return [o.model_copy(update={"error_class": "not_begun"}) if o.cell_id in lost[1:] else o for o in known]

    def _on_commit(self, cell: Cell, outcome: Outcome) -> None:
        self.report.committed += not outcome.by_another_run
        self.report.by_others += outcome.by_another_run
        self.report.measured_twice += outcome.by_another_run and outcome.compute_s > 0
        self.report.failures.pop(cell.id, None)
        self.infra_failures = 0
        self.done.add(cell.id)
        self.progress.report_commit(cell, outcome)
        self.recorder.add_commit(cell.checkpoint, outcome.compute_s)
        if outcome.n_rows:  # measured by this task: its host works
            self.circuit_breaker.record_host(outcome.host, succeeded=True)
            self._confirm(outcome.host, cell.checkpoint.content)

    def _confirm(self, host: str, content: str = "") -> None:
        self.recorder.write_best_effort(lambda: self.attempts.confirm(host, content))

    def _on_failure(self, cell: Cell, outcome: Outcome, again: bool) -> None:
        policy = POLICIES[outcome.error_class] if outcome.error_class else None
        if policy is None or policy.max_attempts is None or policy.scope == "run":
            return
        self.report.failures[cell.id] = (cell, outcome)
        self.progress.report_failure(cell, outcome, again)
        if policy.quarantines == "if confirmed" and self.circuit_breaker.record_host(outcome.host, succeeded=False):
            self.suspect_hosts.add(outcome.host)

    def _check_infra(self, outcomes: list[Outcome]) -> None:
        """After a failure of the lake or of Ray, start no task until a back-off has passed. Further failures during the
        back-off are not counted. The third counted failure without a commit in between stops the run."""
        refused = [o.message for o in _failed(outcomes) if o.error_class and POLICIES[o.error_class].scope == "run"]
        if not refused or time.monotonic() < self.paused_until:
            return
        self.infra_failures += 1
        delay_s = draw_backoff_s("infra", self.infra_failures, self.rng)
        self.paused_until = time.monotonic() + delay_s
        self.progress.print_line(f"{refused[0].splitlines()[0]} No task starts for {delay_s:.1f} s.")
        if self.infra_failures >= (POLICIES["infra"].max_attempts or 0):
            self._stop(refused[0])

    def _stop(self, reason: str) -> None:
        """Start no further task, and report `reason` unless the run had an earlier reason to stop."""
        self.report.stop_reason = self.report.stop_reason or reason

    def _check_circuit_breaker(self, task: Task, outcomes: list[Outcome], retry: Mapping[str, bool]) -> None:
        """Stop the run if the breaker trips; a task that is retried on another node does not count as finished."""
        to_other_node = all(
            o.error_class and POLICIES[o.error_class].on_retry == "other_node" and retry[o.cell_id] for o in outcomes
        )
        if not to_other_node and (reason := self.circuit_breaker.record_task(task.checkpoint.content, outcomes)):
            self._stop(reason)

    def _reconcile_unfinished(self) -> None:
        """Count the cells that were committed by tasks whose result never came back. The other cells of these tasks are
        left to a rerun. A cell that waits for a retry counts as unfinished, not as failed."""
        for queued in (*self.queue, *self.running.values()):
            for cell in queued.task.cells:
                self.report.failures.pop(cell.id, None)
        in_flight = {cell.id for queued in self.running.values() for cell in queued.task.cells} & self.cells.keys()
        if in_flight:
            for cell_id in finished_cell_ids(self.lake, self.plan.sweep.similarity) & in_flight:
                self._on_commit(self.cells[cell_id], Outcome(cell_id=cell_id))

    def _check_claims(self) -> None:
        """Check that every cell that was committed during the run is still in the lake. If one is not, this becomes the
        stop reason of the run."""
        lost = self.done - self.lake.committed_cell_ids()
        if lost:
            self.report.lost = len(lost)
            where = f"{self.lake.uri} was deleted, unmounted or replaced"
            found = f"{len(lost)} cells of this run are no longer in the lake: {where}"
            self._stop(f"{found}\nRestore the lake, or run the sweep again")

    def _refresh(self, last: bool = False) -> None:
        """Update the progress display and, if they are due, the records in the lake."""
        measuring = len(self.backend.measuring)
        self.progress.refresh(
            measuring,
            len(self.running) - measuring,
            len(self.report.failures),
            self._stopping,
            self.backend.describe_running,
        )
        self.recorder.refresh(self.report, self.backend, len(self.cells), last)

    def _on_signal(self, number: int) -> None:
        if self.report.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.report.signal_number = number
        labels = [queued.task.checkpoint.label for queued in self.running.values()]
        waited = f"{', '.join(labels[:3])}{' ...' if len(labels) > 3 else ''}" or "nothing"
        limit_s = self.plan.sweep.resources.drain_s
        self.progress.print_line(
            f"stopping: waiting up to {limit_s:g} s for {waited}; "
            "a second Ctrl-C stops at once; committed cells stay in the lake"
        )


def _as_committed(outcome: Outcome) -> Outcome:
    """Return the outcome of a cell that was committed although its task failed."""
    return Outcome(cell_id=outcome.cell_id, host=outcome.host, by_another_run=outcome.error_class == "leased")


def _failed(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.ok]
