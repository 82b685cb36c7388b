"""Backend protocol, through which the driver runs tasks, and the inline backend, which needs no Ray."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import NamedTuple, Protocol

from pipeline.spec import Cell
from pipeline.sweep.task import Outcome, Task

TaskFunction = Callable[[Task], list[Outcome]]
"""Stage of a task, such as `worker.run_task`. A stage never raises: it returns failures as outcomes. A fetch that
succeeds returns no outcomes."""
FinishedTask = tuple[Task, list[Outcome]]


class TaskFunctions(NamedTuple):
    """The stages of a task: fetch its checkpoint to the machine or into its page cache, then measure it."""

    fetch: TaskFunction
    measure: TaskFunction
    discard: Callable[[Task], None]
    """Removes the fetched files of a task that will not be measured."""


class LeftOutCells(NamedTuple):
    """Cells of one model that no node of a backend can run."""

    model: str
    cells: int
    why: str

    def __str__(self) -> str:
        return f"{self.model}: {self.cells} cells left out: {self.why}"


def needs_fetch(task: Task, ahead: int) -> bool:
    """Return True if a task has a fetch stage: always for a Hub checkpoint, for a local one only with `ahead` > 0."""
    return task.canary_host is None and (ahead > 0 or bool(task.checkpoint.remotes))


class Backend(Protocol):
    """Runs tasks. Every submitted task is returned exactly once: by `wait` (success or failure) or by `withdraw`
    (cancelled before its measurement started)."""

    @property
    def slots(self) -> int:
        """Number of tasks measured at once."""
        ...

    @property
    def capacity(self) -> int:
        """Number of tasks accepted at once, including those that are fetched ahead."""
        ...

    @property
    def measuring(self) -> list[Task]:
        """Tasks that occupy a slot."""
        ...

    gpu_wait_s: float
    """Idle slot-seconds (GPU-seconds on GPUs) during which the next task's files were still being fetched."""

    def describe_running(self) -> list[str]:
        """Return the progress of each cell that runs outside this process, as text."""
        ...

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Return the reason, by cell id, for each cell that no node can run."""
        ...

    def require_visible(self, paths: Iterable[str]) -> None:
        """Raise UsageError unless every node sees every path."""
        ...

    def submit(self, task: Task) -> None:
        """Accept a task and start its fetch, if it has one."""
        ...

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """Return tasks that finished since the last call; wait up to the timeout for one. Inline, run a task here."""
        ...

    def withdraw(self) -> list[Task]:
        """Cancel and return the tasks whose measurement has not started."""
        ...

    def close(self) -> None:
        """End all running tasks and release the nodes."""
        ...


class InlineBackend:
    """Runs one task at a time in this process; threads fetch the checkpoints of the next ones."""

    def __init__(self, stages: TaskFunctions, ahead: int = 0) -> None:
        self.slots, self.capacity, self.gpu_wait_s = 1, 1 + ahead, 0.0
        self._stages, self._ahead = stages, ahead
        self._queue: dict[Future[list[Outcome]], Task] = {}

    @property
    def measuring(self) -> list[Task]:
        """The first accepted task, if any; `wait` measures it next, unless files of another task arrive earlier."""
        return list(self._queue.values())[:1]

    def describe_running(self) -> list[str]:
        """Return nothing: a cell that runs in this process draws its own progress."""
        return []

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        return {}

    def require_visible(self, paths: Iterable[str]) -> None:
        """Do nothing: this process has already resolved the paths."""

    def submit(self, task: Task) -> None:
        self._queue[self._start_fetch(task)] = task

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """Measure the first task whose files are fetched; an earlier task may still be waiting for disk space."""
        began = time.monotonic()
        wait(self._queue, timeout_s, FIRST_COMPLETED)
        self.gpu_wait_s += time.monotonic() - began
        fetched = next((future for future in self._queue if future.done()), None)
        if fetched is None:
            return []
        task = self._queue.pop(fetched)
        return [(task, fetched.result() or self._stages.measure(task))]

    def _start_fetch(self, task: Task) -> "Future[list[Outcome]]":
        """Fetch in a daemon thread, which does not keep a stopping process alive."""
        future: Future[list[Outcome]] = Future()
        if needs_fetch(task, self._ahead):
            Thread(target=lambda: future.set_result(self._stages.fetch(task)), daemon=True).start()
        else:
            future.set_result([])
        return future

    def withdraw(self) -> list[Task]:
        tasks = list(self._queue.values())
        self._queue.clear()
        for task in tasks:
            self._stages.discard(task)
        return tasks

    def close(self) -> None:
        self.withdraw()
