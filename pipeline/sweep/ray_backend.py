"""Ray backend: tasks on a local Ray or a cluster.

Ray never retries. A task that raises, dies or loses its node is returned with failed outcomes, and the driver decides
whether to retry it.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import accumulate
from socket import gethostname
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, WorkerCrashedError

from pipeline.catalog.scratch import DRIVER_ENV
from pipeline.spec import Cell, Resources
from pipeline.sweep.backend import FinishedTask, TaskFunctions, needs_fetch
from pipeline.sweep.nodes import NodeTracker
from pipeline.sweep.ray_cluster import NODE_ANSWER_TIMEOUT_S, RayCluster, make_remote, pin_to_node
from pipeline.sweep.ray_errors import NODE_LOST_ERRORS, classify_ray_error
from pipeline.sweep.retry_policy import POLICIES
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from pipeline.sweep.watchdog import find_stuck, innermost_line, is_in_flight, read_progress, read_stack

TASK_ENVIRONMENT = ("HF_TOKEN", DRIVER_ENV)
"""Environment variables that are passed as an argument of each task, because Ray would log those of a `runtime_env`."""
TIMEOUT_GRACE_FACTOR = 1.5  # the driver cancels a stuck task after this many timeouts, the worker's watchdog after one
STUCK_CHECK_INTERVAL_S = 300.0
HEAD_CHECK_INTERVAL_S = 1.0
DESCRIBE_INTERVAL_S = 30.0


class _InFlight(NamedTuple):
    """A task that was submitted to Ray, for its fetch or for its measurement."""

    task: Task
    slots_taken: int
    since: float


class RayBackend:
    """Backend that runs tasks with Ray Core.

    On GPUs each task has a process of its own, and one GPU unless its model needs more. On CPUs each task has `threads`
    CPUs, and worker processes are reused.

    A task with a fetch stage becomes two Ray tasks on one node: `fetch`, which reserves no CPU, then `measure`. If the
    node is lost, its files are lost too, and the task fails as preempted.

    Args:
        ahead: number of checkpoints per slot that are fetched while another one is measured.
        queue: number of tasks that are submitted to Ray although all slots are taken; Ray starts them in order. Only
            for a local Ray, which has no resources beyond the slots.
    """

    def __init__(self, stages: TaskFunctions, resources: Resources, ahead: int = 0, queue: int = 0) -> None:
        self._resources, self._ahead, self._queue = resources, ahead, queue
        self._cluster = RayCluster(resources)
        self._nodes = NodeTracker(self._cluster.nodes, resources)
        self._cluster.connect()
        self._nodes.require_usable_node()
        self._cluster.free_dead_drivers()
        # Only a function decorated with GPUs gets a fresh process per task.
        gpus, cpus = (1 if resources.gpus else 0), resources.threads
        self._measure = make_remote(_with_environment(stages.measure), num_gpus=gpus, num_cpus=cpus, name="measure")
        self._fetch = make_remote(_with_environment(stages.fetch), num_cpus=0, name="fetch")
        self._discard = make_remote(_with_environment(stages.discard), num_cpus=0, name="discard")
        self._environment = {name: os.environ[name] for name in TASK_ENVIRONMENT if name in os.environ}
        self._to_fetch: deque[Task] = deque()
        """Tasks whose fetch has not started; they wait only while no node can run the first of them."""
        self._fetching: dict[Any, _InFlight] = {}
        self._ready: deque[Task] = deque()
        self._running: dict[Any, _InFlight] = {}
        """Maps a Ray reference to the task that was submitted for measurement, in order of submission."""
        self.gpu_wait_s = 0.0
        self._stuck: set[Any] = set()
        self._stuck_checked_at = 0.0
        self._described: list[str] = []
        self._described_at = 0.0

    @property
    def capacity(self) -> int:
        return self.slots * (1 + self._ahead) + self._queue

    @property
    def slots(self) -> int:
        """Number of tasks that can be measured at the same time: the slots of `resources`. On a cluster it is at most
        the number for which there are GPUs (or CPUs, without GPUs), but at least one."""
        if self._cluster.is_local:
            return self._resources.n_slots
        have = self._cluster.resources()
        fits = have.get("GPU", 0) if self._resources.gpus else have.get("CPU", 0) // self._resources.threads
        return max(min(int(fits), self._resources.slots or int(fits)), 1)

    @property
    def measuring(self) -> list[Task]:
        return [self._running[ref].task for ref in self._started(list(self._running))]

    def describe_running(self) -> list[str]:
        """Return the progress of each running cell; a cluster is asked at most once per DESCRIBE_INTERVAL_S."""
        now = time.monotonic()
        if self._cluster.is_local or now - self._described_at >= DESCRIBE_INTERVAL_S:
            self._described_at = now
            answers = self._cluster.ask_nodes(read_progress, self.measuring) if self._running else []
            self._described = [text for _, texts in answers for text in texts or ()]
        return self._described

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        return self._nodes.find_too_large(cells)

    def require_visible(self, paths: Iterable[str]) -> None:
        self._cluster.require_visible(paths)

    def submit(self, task: Task) -> None:
        (self._to_fetch if needs_fetch(task, self._ahead) else self._ready).append(task)
        self._start()

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        self._cluster.require_head(HEAD_CHECK_INTERVAL_S)  # each finished task comes here
        finished = [done for ref in self._wait_ray(timeout_s) if (done := self._collect_finished(ref))]
        self._start()
        self._cancel_stuck()
        return finished

    def _wait_ray(self, timeout_s: float) -> list[Any]:
        """Return the reference of the first Ray task that finishes, in a list; the list is empty after the timeout. The
        time for which slots were idle while files were being fetched is added to `gpu_wait_s`."""
        in_flight, began = [*self._fetching, *self._running], time.monotonic()
        if not in_flight and self._to_fetch:
            time.sleep(timeout_s)  # no node yet
        ready = ray.wait(in_flight, num_returns=1, timeout=timeout_s)[0] if in_flight else []
        free = max(self.slots - self._slots_taken(), 0)
        self.gpu_wait_s += min(free, len(self._fetching)) * (time.monotonic() - began)
        return ready

    def withdraw(self) -> list[Task]:
        for ref in self._fetching:
            ray.cancel(ref, force=True)
        tasks = [*self._to_fetch, *(one.task for one in self._fetching.values()), *self._ready]
        tasks += self._cancel_queued()
        for queue in (self._to_fetch, self._fetching, self._ready):
            queue.clear()
        return tasks

    def _cancel_queued(self) -> list[Task]:
        """Cancel and return the tasks that Ray has not started; tasks that have just finished are left to `wait`."""
        refs = list(self._running)
        _, unfinished = ray.wait(refs, num_returns=len(refs), timeout=0) if refs else ([], [])
        queued = unfinished[len(self._started(unfinished)) :]
        for ref in queued:
            ray.cancel(ref)
        return [self._running.pop(ref).task for ref in queued]

    def _started(self, refs: list[Any]) -> list[Any]:
        """Return those of the unfinished `refs` whose tasks occupy a slot; Ray starts tasks in order of submission."""
        if not self._queue:
            return refs
        taken = accumulate(self._running[ref].slots_taken for ref in refs)
        return [ref for ref, total in zip(refs, taken, strict=True) if total <= self.slots]

    def _start(self) -> None:
        self._start_fetching()
        self._start_measuring()

    def _start_fetching(self) -> None:
        """Start the waiting fetches, each on a node that can also measure. Without this binding, Ray would also run a
        fetch on a head without CPUs."""
        while self._to_fetch:
            task = self._to_fetch[0]
            if not self._nodes.assign_node(task.checkpoint.content, self._nodes.count_gpus(task.cells)):
                return
            self._to_fetch.popleft()
            ref = self._fetch.options(**self._node_options(task)).remote(task, self._environment)
            self._fetching[ref] = _InFlight(task, 0, time.monotonic())

    def _start_measuring(self) -> None:
        """Submit ready tasks in order while slots are free; a full node delays only tasks that are bound to it."""
        full: set[str] = set()
        for task in tuple(self._ready):
            node, needed = self._nodes.find_node(task.checkpoint.content), self._slots_needed(task)
            if self._slots_taken() + needed > self.slots + (self._queue if needed == 1 else 0):
                return
            if node and (node in full or not self._nodes.has_room(node, self._slots_taken(node), needed)):
                full.add(node)
                continue
            self._ready.remove(task)
            ref = self._measure.options(**self._measure_options(task)).remote(task, self._environment)
            self._running[ref] = _InFlight(task, needed, time.monotonic())

    def _measure_options(self, task: Task) -> dict[str, Any]:
        options = {**self._node_options(task), "memory": self._nodes.memory_bytes(task.memory_slots)}
        return options | ({"num_gpus": self._nodes.count_gpus(task.cells)} if self._resources.gpus else {})

    def _node_options(self, task: Task) -> dict[str, Any]:
        """Return the Ray options that bind a task to one node; empty if no node is known for it. This is the node that
        has the files of the task or, for a canary task, the node on the host that it checks."""
        node = self._nodes.find_node(task.checkpoint.content)
        if task.canary_host:
            node = self._nodes.find_node_of_host(task.canary_host)
        return pin_to_node(node) if node else {}

    def _slots_taken(self, node: str = "") -> int:
        """Return the number of slots taken on all nodes, or on one node."""
        running = self._running.values()
        return sum(
            one.slots_taken for one in running if node in ("", self._nodes.find_node(one.task.checkpoint.content))
        )

    def _slots_needed(self, task: Task) -> int:
        """Return the slots of a task: one, or more if it needs several GPUs or the memory of several slots."""
        return min(max(task.memory_slots, self._nodes.count_gpus(task.cells), 1), self.slots)

    def _collect_finished(self, ref: Any) -> FinishedTask | None:
        """Return the result of a finished Ray task; None after a successful fetch, whose task can then be measured."""
        was_fetched = ref in self._fetching
        task, _, since = (self._fetching if was_fetched else self._running).pop(ref)
        outcomes = self._outcomes(ref, task, time.monotonic() - since)
        if was_fetched:
            self._nodes.record_fetch(task.checkpoint.content, well=all(outcome.ok for outcome in outcomes))
            if not outcomes:
                self._ready.append(task)
                return None
        self._release_node(task, outcomes)
        return task, outcomes

    def _release_node(self, task: Task, outcomes: list[Outcome]) -> None:
        """Forget the node of a finished task's files; delete the files if the worker died and left them."""
        options = self._node_options(task)
        died = any(o.error_class and POLICIES[o.error_class].scope == "worker" for o in outcomes)
        if options and died and task.checkpoint.download_bytes:
            with suppress(RayError):  # the node may be lost too
                ray.get(self._discard.options(**options).remote(task, self._environment), timeout=NODE_ANSWER_TIMEOUT_S)
        self._nodes.forget_files(task.checkpoint.content)

    def _outcomes(self, ref: Any, task: Task, elapsed_s: float) -> list[Outcome]:
        """Return the worker's outcomes or, if the worker failed, one failure per cell with the host if it is known."""
        try:
            return ray.get(ref)
        except RayError as error:
            here = gethostname() if self._cluster.is_local else ""
            host = self._nodes.find_host(task.checkpoint.content) or here or self._find_host(error, task)
            failed = self._failed(error, ref, task, elapsed_s)
            return [outcome.model_copy(update={"host": host, "seconds": elapsed_s}) for outcome in failed]

    def _find_host(self, error: RayError, task: Task) -> str:
        """Return the host that has the in-flight file of a crashed worker.

        Return an empty string if the worker did not crash, or if no host has the file.
        """
        if not isinstance(error, WorkerCrashedError):
            return ""
        return next((host for host, found in self._cluster.ask_nodes(is_in_flight, task) if found), "")

    def _failed(self, error: RayError, ref: Any, task: Task, elapsed_s: float) -> list[Outcome]:
        if isinstance(error, NODE_LOST_ERRORS):
            self._nodes.invalidate()
        failure = classify_ray_error(error)
        late = isinstance(error, WorkerCrashedError) and elapsed_s >= self._resources.timeout_s
        stack = self._stack(task) if late else ""
        if stack or failure.error_class == "timeout" or (failure.error_class == "crash" and ref in self._stuck):
            return self._timed_out(task, stack)
        return fail_all_cells(task, *failure)

    def _timed_out(self, task: Task, stack: str) -> list[Outcome]:
        at = f": in {innermost_line(stack)}" if innermost_line(stack) else ""
        return fail_all_cells(task, "timeout", f"no end after {self._resources.timeout_s:g} s{at}", stack)

    def _stack(self, task: Task) -> str:
        """Return the stack that the watchdog saved when it ended the task's process; empty if it did not fire."""
        return next((stack for _, stack in self._cluster.ask_nodes(read_stack, task) if stack), "")

    def _cancel_stuck(self) -> None:
        """Cancel stuck tasks whose watchdog did not fire; the watchdog's file tells a stuck task from a queued one."""
        now, limit_s = time.monotonic(), TIMEOUT_GRACE_FACTOR * self._resources.timeout_s
        late = {ref: one.task for ref, one in self._running.items() if now - one.since >= limit_s}
        if not late or now - self._stuck_checked_at < min(limit_s, STUCK_CHECK_INTERVAL_S):
            return
        answers = self._cluster.ask_nodes(find_stuck, [*late.values()], TIMEOUT_GRACE_FACTOR)
        stuck = {content for _, contents in answers for content in contents or ()}
        for ref in (ref for ref, task in late.items() if task.checkpoint.content in stuck):
            ray.cancel(ref, force=True)
            self._stuck.add(ref)
        self._stuck_checked_at = time.monotonic()

    def close(self) -> None:
        self._cluster.close()


def _with_environment(function: Callable[[Task], Any]) -> Callable[[Task, dict[str, str]], Any]:
    def on_node(task: Task, environment: dict[str, str]) -> Any:
        os.environ.update(environment)
        return function(task)

    return on_node
