"""Tasks on a Ray cluster. The only file that imports Ray.

Ray neither retries nor judges here: a task that raises, dies or loses its node comes back as typed outcomes.
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
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskUnschedulableError,
    UnserializableException,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.catalog.scratch import DRIVER_ENV, current_owner, is_driver_dead, list_owners, release_owned_by
from pipeline.errors import UsageError
from pipeline.spec import Cell, Resources
from pipeline.sweep.backend import FinishedTask, TaskFunctions, needs_fetch
from pipeline.sweep.nodes import NodeTracker, find_missing_paths, require_listener
from pipeline.sweep.ray_tmpdir import prepare_ray_tmpdir
from pipeline.sweep.retry_policy import WORKER_FATAL
from pipeline.sweep.signals import preserve_sigterm_handler
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from pipeline.sweep.watchdog import find_stuck, innermost_line, read_stack

OBJECT_STORE_BYTES = 100 * 2**20  # tasks and outcomes are a few kilobytes; hidden states never travel
WORKER_ENVIRONMENT = ("HF_ENDPOINT", "HF_HUB_OFFLINE")
"""Environment that workers on other nodes must have when they start, to fetch what the driver has found."""
TASK_ENVIRONMENT = ("HF_TOKEN", DRIVER_ENV)
"""What they need besides, as an argument of each task: what is in a runtime_env Ray writes into its logs."""
NODE_LOST_ERRORS = (NodeDiedError, ObjectLostError, TaskUnschedulableError)
TIMEOUT_GRACE_FACTOR = 1.5  # the driver ends a task so much later than the worker's own watchdog
NODE_ANSWER_TIMEOUT_S, STUCK_CHECK_INTERVAL_S = (
    30.0,
    300.0,
)  # a node may take so long to answer; after stuck tasks it is asked so often


class _InFlight(NamedTuple):
    """A task that Ray has been given, to fetch or to measure."""

    task: Task
    slots_taken: int
    since: float


class RayBackend:
    """Ray Core tasks: one GPU and one process per task, or `threads` CPUs with workers reused.

    A task whose checkpoint is fetched is two Ray tasks on one node: `fetch`, which takes no CPU, then `measure`. If
    that node goes, so do the files, and the task comes back as preempted.

    Args:
        ahead: checkpoints that are fetched per slot while another is measured.
        queue: tasks that Ray is given beyond those it has room for; it begins them in turn. Of a local run, whose slots
            are all that Ray has.
    """

    def __init__(self, stages: TaskFunctions, resources: Resources, ahead: int = 0, queue: int = 0) -> None:
        self._stages, self._resources, self._ahead, self._queue = stages, resources, ahead, queue
        self._nodes = NodeTracker(ray.nodes, resources)
        self._connect()
        # Only a function decorated with GPUs gets a fresh process per task.
        self._measure = _remote(
            _with_environment(stages.measure),
            num_gpus=1 if resources.gpus else 0,
            num_cpus=resources.threads,
            name="measure",
        )
        self._fetch = _remote(_with_environment(stages.fetch), num_cpus=0, name="fetch")
        self._discard = _remote(_with_environment(stages.discard), num_cpus=0, name="discard")
        self._environment = {name: os.environ[name] for name in TASK_ENVIRONMENT if name in os.environ}
        self._to_fetch: deque[Task] = deque()
        """More than one only while no node can run them."""
        self._fetching: dict[Any, _InFlight] = {}
        self._ready: deque[Task] = deque()
        self._running: dict[Any, _InFlight] = {}
        """In the order in which they were given to Ray."""
        self.gpu_wait_s = 0.0
        self._stuck: set[Any] = set()
        self._looked_at = 0.0

    @property
    def capacity(self) -> int:
        return self.slots * (1 + self._ahead) + self._queue

    @property
    def slots(self) -> int:
        """Tasks measured at once: the slots of a local run; on a cluster what fits, or the slots if they are fewer."""
        if self._resources.address == "local":
            return self._resources.n_slots
        have = ray.cluster_resources()
        fits = have.get("GPU", 0) if self._resources.gpus else have.get("CPU", 0) // self._resources.threads
        return max(min(int(fits), self._resources.slots or int(fits)), 1)

    @property
    def measuring(self) -> list[Task]:
        return [self._running[ref].task for ref in self._begun(list(self._running))]

    def submit(self, task: Task) -> None:
        (self._to_fetch if needs_fetch(task, self._ahead) else self._ready).append(task)
        self._start()

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        ready = self._waited(timeout_s)
        finished = [done for ref in ready if (done := self._collect_finished(ref))]
        self._start()
        self._end_stuck()
        return finished

    def _waited(self, timeout_s: float) -> list[Any]:
        """The first Ray task that ends, if one does in time; meanwhile slots may wait for files."""
        under_way, began = [*self._fetching, *self._running], time.monotonic()
        if not under_way and self._to_fetch:
            time.sleep(timeout_s)  # for a node
        ready = ray.wait(under_way, num_returns=1, timeout=timeout_s)[0] if under_way else []
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
        """What Ray has not begun is taken back from it; what has ended meanwhile is left to `wait`."""
        refs = list(self._running)
        _, unfinished = ray.wait(refs, num_returns=len(refs), timeout=0) if refs else ([], [])
        queued = unfinished[len(self._begun(unfinished)) :]
        for ref in queued:
            ray.cancel(ref)
        return [self._running.pop(ref).task for ref in queued]

    def _begun(self, refs: list[Any]) -> list[Any]:
        """Of unfinished ones, in the order in which Ray was given them, those that it has slots for."""
        if not self._queue:
            return refs
        shares = accumulate(self._running[ref].slots_taken for ref in refs)
        return [ref for ref, taken in zip(refs, shares, strict=True) if taken <= self.slots]

    def _start(self) -> None:
        self._start_fetching()
        self._start_measuring()

    def _start_fetching(self) -> None:
        """Not before there is a node to measure it: a fetch needs no CPU, and Ray would run it on the head too."""
        while self._to_fetch:
            task = self._to_fetch[0]
            if not self._nodes.assign_node(task.checkpoint.content, self._nodes.count_gpus(task.cells)):
                return
            self._to_fetch.popleft()
            ref = self._fetch.options(**self._node_options(task)).remote(task, self._environment)
            self._fetching[ref] = _InFlight(task, 0, time.monotonic())

    def _start_measuring(self) -> None:
        """What is ready, in turn, as far as there are slots; a node that is full holds up its own tasks alone."""
        full: set[str] = set()
        for task in tuple(self._ready):
            node, shares = self._nodes.find_node(task.checkpoint.content), self._slots_needed(task)
            if self._slots_taken() + shares > self.slots + (self._queue if shares == 1 else 0):
                return
            if node and (node in full or not self._nodes.has_room(node, self._slots_taken(node), shares)):
                full.add(node)
                continue
            self._ready.remove(task)
            options = {
                **self._node_options(task),
                "memory": self._nodes.memory_bytes(task.memory_slots),
                **self._gpus(task),
            }
            ref = self._measure.options(**options).remote(task, self._environment)
            self._running[ref] = _InFlight(task, shares, time.monotonic())

    def _slots_taken(self, node: str = "") -> int:
        """Slots, of all nodes or of one."""
        here = (
            one
            for one in self._running.values()
            if not node or self._nodes.find_node(one.task.checkpoint.content) == node
        )
        return sum(one.slots_taken for one in here)

    def _collect_finished(self, ref: Any) -> FinishedTask | None:
        """What a Ray task has come to; of a fetch that went well nothing yet, its task is ready now."""
        was_fetched = ref in self._fetching
        task, _, since = (self._fetching if was_fetched else self._running).pop(ref)
        outcomes = self._outcomes(ref, task, time.monotonic() - since)
        if was_fetched:
            self._nodes.record_fetch(task.checkpoint.content, well=not outcomes)
            if not outcomes:
                self._ready.append(task)
                return None
        self._release_node(task, outcomes)
        return task, outcomes

    def _release_node(self, task: Task, outcomes: list[Outcome]) -> None:
        """The task's node, where files go that a worker which died has left: now, or they might be the next try's."""
        placed, died = self._node_options(task), any(o.error_class in WORKER_FATAL for o in outcomes)
        if placed and died and task.checkpoint.download_bytes:
            with suppress(RayError):  # the node may have gone too
                ray.get(self._discard.options(**placed).remote(task, self._environment), timeout=NODE_ANSWER_TIMEOUT_S)
        self._nodes.forget_files(task.checkpoint.content)

    def _node_options(self, task: Task) -> dict[str, Any]:
        """On the node that has its files and on no other, which might wait for room that its own tasks hold."""
        node = self._nodes.find_node(task.checkpoint.content)
        return _pin_to_node(node) if node else {}

    def _slots_needed(self, task: Task) -> int:
        """Slots that a task takes up: one, or as many as it has GPUs or needs the memory of."""
        return min(max(task.memory_slots, self._nodes.count_gpus(task.cells), 1), self.slots)

    def _gpus(self, task: Task) -> dict[str, int]:
        return {"num_gpus": self._nodes.count_gpus(task.cells)} if self._resources.gpus else {}

    def close(self) -> None:
        if self._resources.address != "local":
            with suppress(RayError):  # a node that does not answer keeps what this driver had there for a day
                self._ask_nodes(release_owned_by, [current_owner()])
        with preserve_sigterm_handler():  # Ray's shutdown takes it away below Python's knowledge
            ray.shutdown()

    def _free_dead_drivers(self) -> None:
        """Free the nodes of what dead drivers of this machine had there: only here can be seen that they are dead."""
        owners = {owner for _, found in self._ask_nodes(list_owners) for owner in found or ()}
        if dead := sorted(owner for owner in owners if is_driver_dead(owner)):
            self._ask_nodes(release_owned_by, dead)

    def require_visible(self, paths: Iterable[str]) -> None:
        """Refuse unless every node of the cluster sees every path.

        Raises: UsageError listing what is missing where.
        """
        if self._resources.address == "local":
            return
        answers = self._ask_nodes(find_missing_paths, sorted(paths))
        lacking = [f"{node} lacks {', '.join(answer[:3])}" for node, answer in answers if answer]
        lacking += [f"{node} does not say" for node, answer in answers if answer is None]
        if lacking:
            raise UsageError("local files on a cluster", "; ".join(lacking), "Put them where every node sees them")

    def _ask_nodes(self, question: Callable[..., Any], *about: Any) -> list[tuple[str, Any]]:
        """What each node answers, by its host; None of one that cannot say, and nothing of one that goes meanwhile."""
        if self._resources.address == "local":
            return [("", question(*about))]
        probe = _remote(question, num_cpus=0)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        hosts = {probe.options(**_pin_to_node(n["NodeID"])).remote(*about): n["NodeManagerHostname"] for n in nodes}
        answered, silent = ray.wait(list(hosts), num_returns=len(hosts), timeout=NODE_ANSWER_TIMEOUT_S)
        answers = [(hosts[ref], None) for ref in silent]
        for ref in silent:
            ray.cancel(ref, force=True)
        for ref in answered:
            try:
                answers.append((hosts[ref], ray.get(ref)))
            except NODE_LOST_ERRORS:
                continue
            except RayError:
                answers.append((hosts[ref], None))
        return answers

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        return self._nodes.find_too_large(cells)

    def _connect(self) -> None:
        address = self._resources.address
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {
                "num_cpus": self._resources.threads * self._resources.n_slots,
                "num_gpus": self._resources.gpus,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": str(prepare_ray_tmpdir()),
            }
        else:
            require_listener(address)
            options["runtime_env"] = {
                "env_vars": {name: os.environ[name] for name in WORKER_ENVIRONMENT if name in os.environ}
            }
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            with preserve_sigterm_handler():
                ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"Ray at {address}", first, "Start the cluster, or use --address local") from error
        self._nodes.require_usable_node()
        if address != "local":
            self._free_dead_drivers()

    def _outcomes(self, ref: Any, task: Task, elapsed_s: float) -> list[Outcome]:
        """What the worker answers, or what Ray says of it, with the node where it was if that is known."""
        try:
            return ray.get(ref)
        except RayError as error:
            here = gethostname() if self._resources.address == "local" else ""
            where = self._nodes.find_host(task.checkpoint.content) or here
            said = self._outcomes_of_ray_error(error, ref, task, elapsed_s)
            return [one.model_copy(update={"host": where, "seconds": elapsed_s}) for one in said]

    def _outcomes_of_ray_error(self, error: RayError, ref: Any, task: Task, elapsed_s: float) -> list[Outcome]:
        match error:
            case RayTaskError():
                stranger = isinstance(error.cause, TaskCancelledError)  # what an interrupt from outside becomes
                error_class = "preempted" if stranger else "error"
                return fail_all_cells(task, error_class, f"{type(error.cause).__name__}: {error.cause}", str(error))
            case UnserializableException():
                return fail_all_cells(
                    task, "error", "UnserializableException: an exception that cannot be pickled", str(error)
                )
            case TaskCancelledError():
                return self._timed_out(task)
            case OutOfMemoryError():
                return fail_all_cells(task, "host_oom", _first_line(error), str(error))
            case RuntimeEnvSetupError():
                cause = str(error).strip().splitlines()[-1]
                return fail_all_cells(task, "setup", f"RuntimeEnvSetupError: {cause}", str(error))
            case _ if isinstance(error, NODE_LOST_ERRORS):
                self._nodes.invalidate()
                return fail_all_cells(task, "preempted", _first_line(error))
        late = isinstance(error, WorkerCrashedError) and elapsed_s >= self._resources.timeout_s
        stack = self._stack(task) if late else ""
        if stack or ref in self._stuck:
            return self._timed_out(task, stack)
        return fail_all_cells(task, "crash", _first_line(error))

    def _timed_out(self, task: Task, stack: str = "") -> list[Outcome]:
        at = f": in {innermost_line(stack)}" if innermost_line(stack) else ""
        return fail_all_cells(task, "timeout", f"no end after {self._resources.timeout_s:g} s{at}", stack)

    def _stack(self, task: Task) -> str:
        """What the watchdog has left, on whichever node; empty where it did not end the task."""
        return next((stack for _, stack in self._ask_nodes(read_stack, task) if stack), "")

    def _end_stuck(self) -> None:
        """The second line behind the worker's own watchdog, whose file tells a task that is stuck from one that waits
        for its turn."""
        now, limit_s = time.monotonic(), TIMEOUT_GRACE_FACTOR * self._resources.timeout_s
        late = {ref: one.task for ref, one in self._running.items() if now - one.since >= limit_s}
        if not late or now - self._looked_at < min(limit_s, STUCK_CHECK_INTERVAL_S):
            return
        found = {
            content for _, there in self._ask_nodes(find_stuck, [*late.values()], limit_s) for content in there or ()
        }
        for ref in (ref for ref, task in late.items() if task.checkpoint.content in found):
            ray.cancel(ref, force=True)
            self._stuck.add(ref)
        self._looked_at = time.monotonic()


def _remote(body: Callable[..., Any], **options: Any) -> Any:
    """A Ray function that Ray does not retry."""
    decorate: Any = ray.remote  # whose overloads do not know of `name`
    return decorate(max_retries=0, retry_exceptions=False, **options)(body)


def _pin_to_node(node: str) -> dict[str, Any]:
    """There and nowhere else."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _with_environment(work: Callable[[Task], Any]) -> Callable[[Task, dict[str, str]], Any]:
    def on_a_node(task: Task, environment: dict[str, str]) -> Any:
        os.environ.update(environment)
        return work(task)

    return on_a_node


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
