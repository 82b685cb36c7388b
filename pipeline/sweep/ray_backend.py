"""Tasks on a Ray cluster. The only file that imports Ray.

Ray neither retries nor judges here: a task that raises, dies or loses its node comes back as typed outcomes.
"""

import os
import socket
import time
from collections.abc import Iterable
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
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import UsageError
from pipeline.spec import Resources
from pipeline.sweep.backend import Finished, Work
from pipeline.sweep.task import Outcome, Task, failed, stack_file

OBJECT_STORE_BYTES = 100 * 2**20  # tasks and outcomes are a few kilobytes; hidden states never travel
GRACE = 1.5  # so much later than the worker's own watchdog the driver ends a task


class RayBackend:
    """Ray Core tasks: one GPU and one process per task, or `threads` CPUs with workers reused."""

    def __init__(self, work: Work, resources: Resources) -> None:
        self._resources = resources
        self._connect()
        # Two decorations of one body: only a function decorated with GPUs gets a fresh process per task.
        on_gpu = ray.remote(num_gpus=1, num_cpus=resources.threads, max_retries=0, retry_exceptions=False)
        on_cpu = ray.remote(num_gpus=0, num_cpus=resources.threads, max_retries=0, retry_exceptions=False)
        self._remote: Any = (on_gpu if resources.gpus else on_cpu)(work)
        self._running: dict[Any, tuple[Task, float]] = {}

    @property
    def capacity(self) -> int:
        """Tasks at once: the slots of a local run; on a cluster what fits, or the slots if they are fewer."""
        if self._resources.address == "local":
            return self._resources.n_slots
        have = ray.cluster_resources()
        fits = have.get("GPU", 0) if self._resources.gpus else have.get("CPU", 0) // self._resources.threads
        return max(min(int(fits), self._resources.slots or int(fits)), 1)

    def submit(self, task: Task) -> None:
        self._running[self._remote.remote(task)] = (task, time.monotonic())

    def wait(self, timeout_s: float) -> list[Finished]:
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        finished = []
        for ref in ready:
            task, started = self._running.pop(ref)
            finished.append((task, self._outcomes(ref, task, time.monotonic() - started)))
        self._end_overdue()
        return finished

    def close(self) -> None:
        ray.shutdown()

    def require_visible(self, paths: Iterable[str]) -> None:
        """Refuse unless every node of the cluster sees every path.

        Raises: UsageError listing what is missing where.
        """
        if self._resources.address == "local":
            return
        probe: Any = ray.remote(num_cpus=0, max_retries=0)(_missing)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [
            probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                sorted(paths)
            )
            for node in nodes
        ]
        try:
            answers = ray.get(asked, timeout=60)
        except RayError as error:
            raise UsageError("asking each node for its files", _first_line(error), "Look at the cluster") from error
        names = [node["NodeManagerHostname"] for node in nodes]
        lacking = [f"{n} lacks {', '.join(a[:3])}" for n, a in zip(names, answers, strict=True) if a]
        if lacking:
            raise UsageError("local files on a cluster", "; ".join(lacking), "Put them where every node sees them")

    def _connect(self) -> None:
        address = self._resources.address
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {
                "num_cpus": self._resources.threads * self._resources.n_slots,
                "num_gpus": self._resources.gpus,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            _require_listener(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"Ray at {address}", first, "Start the cluster, or use --address local") from error
        self._require_a_fit()

    def _require_a_fit(self) -> None:
        """An impossible request would wait for ever without a word."""
        want = {"CPU": self._resources.threads, "GPU": min(self._resources.gpus, 1)}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= count for name, count in want.items()) for node in nodes):
            best = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes)
            raise UsageError(
                f"a task of {want['CPU']} CPUs and {want['GPU']} GPUs",
                f"no node has that much (nodes: {best})",
                "Set resources.cpus, resources.slots and resources.gpus to what the nodes have",
            )

    def _outcomes(self, ref: Any, task: Task, elapsed_s: float) -> list[Outcome]:
        try:
            return ray.get(ref)
        except RayTaskError as error:
            return failed(task, "error", f"{type(error.cause).__name__}: {error.cause}", str(error))
        except TaskCancelledError:
            return self._timed_out(task)
        except OutOfMemoryError as error:
            return failed(task, "host_oom", str(error).strip())
        except (NodeDiedError, ObjectLostError, TaskUnschedulableError) as error:
            return failed(task, "preempted", _first_line(error))
        except RayError as error:
            if isinstance(error, WorkerCrashedError) and (_stack(task) or self._overdue(task, elapsed_s)):
                return self._timed_out(task)
            return failed(task, "crash", _first_line(error))

    def _timed_out(self, task: Task) -> list[Outcome]:
        return failed(task, "timeout", f"no end after {self._resources.timeout_s:g} s", _stack(task))

    def _end_overdue(self) -> None:
        """The second line behind the worker's own watchdog; on a cluster a task may wait long before it starts."""
        if self._resources.address != "local":
            return
        for ref, (task, started) in self._running.items():
            if self._overdue(task, (time.monotonic() - started) / GRACE):
                ray.cancel(ref, force=True)

    def _overdue(self, task: Task, elapsed_s: float) -> bool:
        """Loading and each cell have the whole timeout each."""
        return elapsed_s >= self._resources.timeout_s * (1 + len(task.cells))


def _stack(task: Task) -> str:
    """What the watchdog left, where this process can see it."""
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
