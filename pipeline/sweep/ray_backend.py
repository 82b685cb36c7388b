"""Tasks on a Ray cluster. The only file that imports Ray.

Ray neither retries nor judges here: a task that raises, dies or loses its node comes back as typed outcomes.
"""

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    TaskUnschedulableError,
    UnserializableException,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.catalog.scratch import OWNER
from pipeline.errors import UsageError
from pipeline.memory import gpus_for
from pipeline.spec import Cell, Resources
from pipeline.sweep.backend import Finished, Stages, is_fetched
from pipeline.sweep.ray_folder import ray_folder
from pipeline.sweep.task import Outcome, Task, failed, stack_file

OBJECT_STORE_BYTES = 100 * 2**20  # tasks and outcomes are a few kilobytes; hidden states never travel
OF_THE_HUB = ("HF_ENDPOINT", "HF_HUB_OFFLINE")
"""Environment that workers on other nodes must have when they start, to fetch what the driver has found."""
PASSED_ON = ("HF_TOKEN", OWNER)
"""What they need besides, as an argument of each task: what is in a runtime_env Ray writes into its logs."""
NODE_GONE = (NodeDiedError, ObjectLostError, TaskUnschedulableError)
GRACE, START_S = 1.5, 60.0  # the driver ends a task so much later than the worker's own watchdog, and its start apart
ANSWER_S = 30.0  # a node that says nothing for so long is not asked again
LOOK_S = 1.0  # which nodes there are is asked so often; for each task it would take half a millisecond


class RayBackend:
    """Ray Core tasks: one GPU and one process per task, or `threads` CPUs with workers reused.

    A task whose checkpoint is fetched is two Ray tasks on one node: `fetch`, which takes no CPU, then `measure`. If
    that node goes, so do the files, and the task comes back as preempted.
    """

    def __init__(self, stages: Stages, resources: Resources, ahead: int = 0) -> None:
        self._stages, self._resources, self._ahead = stages, resources, ahead
        self._fitting: list[dict[str, Any]] = []
        self._looked_at = 0.0
        self._connect()
        # Two decorations of one body: only a function decorated with GPUs gets a fresh process per task.
        on_gpu = ray.remote(num_gpus=1, num_cpus=resources.threads, max_retries=0, retry_exceptions=False)
        on_cpu = ray.remote(num_gpus=0, num_cpus=resources.threads, max_retries=0, retry_exceptions=False)
        self._measure: Any = (on_gpu if resources.gpus else on_cpu)(_with_environment(stages.measure))
        on_any = ray.remote(num_cpus=0, max_retries=0, retry_exceptions=False)
        self._fetch: Any = on_any(_with_environment(stages.fetch))
        self._discard: Any = on_any(_with_environment(stages.discard))
        self._environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._fetching: dict[Any, Task] = {}
        self._ready: deque[Task] = deque()
        self._running: dict[Any, tuple[Task, float]] = {}
        """With the moment at which each was given to Ray."""
        self._nodes: dict[str, str] = {}

    @property
    def capacity(self) -> int:
        return self.slots * (1 + self._ahead)

    @property
    def slots(self) -> int:
        """Tasks measured at once: the slots of a local run; on a cluster what fits, or the slots if they are fewer."""
        if self._resources.address == "local":
            return self._resources.n_slots
        have = ray.cluster_resources()
        fits = have.get("GPU", 0) if self._resources.gpus else have.get("CPU", 0) // self._resources.threads
        return max(min(int(fits), self._resources.slots or int(fits)), 1)

    @property
    def _taken(self) -> int:
        """Slots."""
        return sum(self._shares(task) for task, _ in self._running.values())

    def submit(self, task: Task) -> None:
        node = self._emptiest_node(task) if is_fetched(task, self._ahead) else ""
        if not node:  # or nothing to fetch: without CPUs a fetch would run on the head, where nobody wants the files
            self._ready.append(task)
        else:
            self._nodes[task.checkpoint.content] = node
            self._fetching[self._fetch.options(**self._placed(task)).remote(task, self._environment)] = task
        self._start()

    def wait(self, timeout_s: float) -> list[Finished]:
        under_way = [*self._fetching, *self._running]
        if not under_way:
            return []
        ready, _ = ray.wait(under_way, num_returns=1, timeout=timeout_s)
        finished = [done for ref in ready if (done := self._finished(ref))]
        self._start()
        self._end_overdue()
        return finished

    def withdraw(self) -> list[Task]:
        for ref in self._fetching:
            ray.cancel(ref, force=True)
        tasks = [*self._fetching.values(), *self._ready]
        self._fetching.clear()
        self._ready.clear()
        for task in tasks:
            self._stages.discard(task)
        return tasks

    def _start(self) -> None:
        """Measure what is ready, as far as there are slots; one that has the memory of two takes two."""
        while self._ready and self._taken + self._shares(self._ready[0]) <= self.slots:
            task = self._ready.popleft()
            options = {**self._placed(task), "memory": self._memory(task), **self._gpus(task)}
            ref = self._measure.options(**options).remote(task, self._environment)
            self._running[ref] = (task, time.monotonic())

    def _finished(self, ref: Any) -> Finished | None:
        """What a Ray task has come to; of a fetch that went well nothing yet, its task is ready now."""
        if ref in self._running:
            task, since = self._running.pop(ref)
            outcomes = self._outcomes(ref, task, time.monotonic() - since)
        else:
            task = self._fetching.pop(ref)
            if not (outcomes := self._outcomes(ref, task, 0.0)):
                self._ready.append(task)
                return None
        self._leave(task, outcomes)
        return task, outcomes

    def _leave(self, task: Task, outcomes: list[Outcome]) -> None:
        """The task's node, where files are removed that a worker which died has left."""
        placed = self._placed(task)
        if placed and not all(outcome.ok for outcome in outcomes):
            self._discard.options(**placed).remote(task, self._environment)
        self._nodes.pop(task.checkpoint.content, None)

    def _emptiest_node(self, task: Task) -> str:
        """Id of the node that can run the task and has the fewest of them; empty while there is none."""
        under_way = [*self._fetching.values(), *self._ready, *(task for task, _ in self._running.values())]
        load = Counter(self._nodes.get(task.checkpoint.content) for task in under_way)
        gpus = self._gpus(task).get("num_gpus", 0)
        fitting = [node["NodeID"] for node in self._fitting_nodes() if node["Resources"].get("GPU", 0) >= gpus]
        return min(fitting, key=lambda node: load[node], default="")

    def _placed(self, task: Task) -> dict[str, Any]:
        """On the node that has its files and on no other, which might wait for room that its own tasks hold."""
        node = self._nodes.get(task.checkpoint.content)
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} if node else {}

    def _shares(self, task: Task) -> int:
        """Slots that a task takes up: one, or as many as it has GPUs or needs the memory of."""
        return min(max(task.shares, *self._gpus(task).values(), 1), self.slots)

    def _gpus(self, task: Task) -> dict[str, int]:
        """Several where one has no room for the weights; all are on one node."""
        wanted = [_gpus(cell, self._resources) for cell in task.cells]
        return {"num_gpus": max(wanted, default=1)} if self._resources.gpus else {}

    def _memory(self, task: Task) -> int:
        """Bytes that Ray sets aside for a task on its node: one share is a slot's, of the smallest node."""
        nodes = [(node["Resources"].get("memory", 0), self._fit(node)) for node in self._fitting_nodes()]
        return int(min((memory / slots * min(task.shares, slots) for memory, slots in nodes), default=0))

    def close(self) -> None:
        ray.shutdown()

    def require_visible(self, paths: Iterable[str]) -> None:
        """Refuse unless every node of the cluster sees every path.

        Raises: UsageError listing what is missing where.
        """
        if self._resources.address == "local":
            return
        try:
            answers = self._asked(_missing, sorted(paths))
        except RayError as error:
            raise UsageError("asking each node for its files", _first_line(error), "Look at the cluster") from error
        lacking = [f"{node} lacks {', '.join(answer[:3])}" for node, answer in answers if answer]
        if lacking:
            raise UsageError("local files on a cluster", "; ".join(lacking), "Put them where every node sees them")

    def _asked(self, question: Callable[[Any], Any], about: Any) -> list[tuple[str, Any]]:
        """What each node answers, by its host; nodes that go meanwhile are left out.

        Raises: RayError where one cannot say.
        """
        probe: Any = ray.remote(num_cpus=0, max_retries=0)(question)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        on = lambda node: NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)  # noqa: E731
        asked = [(n["NodeManagerHostname"], probe.options(scheduling_strategy=on(n)).remote(about)) for n in nodes]
        answers = []
        for host, ref in asked:
            with suppress(*NODE_GONE):
                answers.append((host, ray.get(ref, timeout=ANSWER_S)))
        return answers

    def require_gpus(self, cells: Iterable[Cell]) -> None:
        """Refuse a model that takes more GPUs than any node has: its task would wait for ever.

        Raises: UsageError naming the largest.
        """
        largest = max(cells, key=lambda cell: _gpus(cell, self._resources))
        wanted = _gpus(largest, self._resources)
        most = max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
        if self._resources.gpus and wanted > most:
            raise UsageError(
                f"{largest.checkpoint.model} on {wanted} GPUs of {self._resources.gpu_gb:g} GB in one node",
                f"the largest node has {most}",
                "Leave it out by --models, or run where a node has more",
            )

    def _connect(self) -> None:
        address = self._resources.address
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {
                "num_cpus": self._resources.threads * self._resources.n_slots,
                "num_gpus": self._resources.gpus,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": str(ray_folder()),
            }
        else:
            _require_listener(address)
            options["runtime_env"] = {"env_vars": {name: os.environ[name] for name in OF_THE_HUB if name in os.environ}}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"Ray at {address}", first, "Start the cluster, or use --address local") from error
        self._require_a_fit()

    def _require_a_fit(self) -> None:
        """An impossible request would wait for ever without a word."""
        if not self._fitting_nodes():
            have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            best = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in have)
            raise UsageError(
                f"a task of {self._resources.threads} CPUs and {min(self._resources.gpus, 1)} GPUs",
                f"no node has that much (nodes: {best})",
                "Set resources.cpus, resources.slots and resources.gpus to what the nodes have",
            )

    def _fitting_nodes(self) -> list[dict[str, Any]]:
        """Living nodes that could run a task if they were idle, as they were at most a second ago."""
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._fitting = [node for node in ray.nodes() if node["Alive"] and self._fit(node)]
            self._looked_at = time.monotonic()
        return self._fitting

    def _fit(self, node: dict[str, Any]) -> int:
        """Tasks that the node can run at once."""
        want = {"CPU": self._resources.threads, "GPU": min(self._resources.gpus, 1)}
        return min(int(node["Resources"].get(name, 0) // count) for name, count in want.items() if count)

    def _outcomes(self, ref: Any, task: Task, elapsed_s: float) -> list[Outcome]:
        try:
            return ray.get(ref)
        except RayTaskError as error:
            stranger = isinstance(error.cause, TaskCancelledError)  # what an interrupt from outside becomes
            error_class = "preempted" if stranger else "error"
            return failed(task, error_class, f"{type(error.cause).__name__}: {error.cause}", str(error))
        except UnserializableException as error:
            return failed(task, "error", "UnserializableException: an exception that cannot be pickled", str(error))
        except TaskCancelledError:
            return self._timed_out(task)
        except OutOfMemoryError as error:
            return failed(task, "host_oom", str(error).strip())
        except NODE_GONE as error:
            return failed(task, "preempted", _first_line(error))
        except RayError as error:
            late = isinstance(error, WorkerCrashedError) and elapsed_s >= self._resources.timeout_s
            if late and (elapsed_s >= self._most_s(task) or self._stack(task)):
                return self._timed_out(task)
            return failed(task, "crash", _first_line(error))

    def _timed_out(self, task: Task) -> list[Outcome]:
        return failed(task, "timeout", f"no end after {self._resources.timeout_s:g} s", self._stack(task))

    def _stack(self, task: Task) -> str:
        """What the watchdog has left, on whichever node; empty where it did not end the task."""
        if self._resources.address == "local":
            return _left_stack(task)
        with suppress(RayError):
            return next((stack for _, stack in self._asked(_left_stack, task) if stack), "")
        return ""

    def _end_overdue(self) -> None:
        """The second line behind the worker's own watchdog; on a cluster a task may wait long before it starts."""
        if self._resources.address != "local":
            return
        for ref, (task, since) in self._running.items():
            if time.monotonic() - since >= self._most_s(task):
                ray.cancel(ref, force=True)

    def _most_s(self, task: Task) -> float:
        """So long may it take at most: loading and each cell have the whole timeout each."""
        return START_S + GRACE * self._resources.timeout_s * (1 + len(task.cells))


def _gpus(cell: Cell, resources: Resources) -> int:
    """GPUs that have room for the model."""
    return gpus_for(cell.checkpoint.n_params, cell.recipe.dtype, resources.gpu_bytes)


def _with_environment(work: Callable[[Task], Any]) -> Callable[[Task, dict[str, str]], Any]:
    def on_a_node(task: Task, environment: dict[str, str]) -> Any:
        os.environ.update(environment)
        return work(task)

    return on_a_node


def _left_stack(task: Task) -> str:
    """What the watchdog has left on this node."""
    path = stack_file(task)
    return path.read_text() if path.exists() else ""


def _require_listener(address: str) -> None:
    """Ray itself would wait two minutes for a head that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UsageError(
            f"Ray at {address}", f"nothing listens there ({error})", "Start the head, or use --address local"
        ) from error


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
