"""Backend protocol, through which the driver runs tasks, and the inline backend, which needs no Ray."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import NamedTuple, Protocol

from pipeline.spec import Cell
from pipeline.sweep.task import Outcome, Task

TaskFunction = Callable[[Task], list[Outcome]]
"""Function that runs a stage of a task, such as `worker.run_task`. It never raises: it returns failures as outcomes.
A fetch that succeeds returns an empty list."""
FinishedTask = tuple[Task, list[Outcome]]


class TaskFunctions(NamedTuple):
    """Functions for the stages of a task.

    `fetch` brings the checkpoint to the machine, or into its page cache if it is on a disk; then `measure` measures it.
    """

    fetch: TaskFunction
    measure: TaskFunction
    discard: Callable[[Task], None]
    """Function that removes the fetched files of a task that will not be measured."""


class LeftOutCells(NamedTuple):
    """Number of cells of one model that no node of a backend can run, and the reason."""

    model: str
    cells: int
    why: str

    def __str__(self) -> str:
        return f"{self.model}: {self.cells} cells left out: {self.why}"


def needs_fetch(task: Task, ahead: int) -> bool:
    """Return True if a task has a fetch stage.

    A Hub checkpoint is always fetched, a local checkpoint only if `ahead` > 0, and a canary task fetches nothing.
    """
    return task.canary_host is None and (ahead > 0 or bool(task.checkpoint.remotes))


class Backend(Protocol):
    """Runner of tasks. Every submitted task is returned exactly once: by `wait` after its success or failure, or by
    `withdraw` if it was cancelled before its measurement started."""

    @property
    def slots(self) -> int:
        """Number of tasks that can be measured at the same time."""
        ...

    @property
    def capacity(self) -> int:
        """Number of tasks that the backend holds at the same time, including those whose files are fetched ahead."""
        ...

    @property
    def measuring(self) -> list[Task]:
        """Tasks that occupy a slot."""
        ...

    gpu_wait_s: float
    """Seconds, summed over slots, that slots were idle because the next task's files were still being fetched."""

    def describe_running(self) -> list[str]:
        """Return one line of text for each cell that runs in another process, with the progress of the cell."""
        ...

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Map the id of each cell that no node can run to the reason."""
        ...

    def require_visible(self, paths: Iterable[str]) -> None:
        """Raise UsageError unless every node sees every path."""
        ...

    def submit(self, task: Task) -> None:
        """Accept a task and start its fetch, if it has one."""
        ...

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """Return tasks that have finished, with their outcomes; if there is none, wait up to `timeout_s` for one.

        The inline backend measures a task during this call.
        """
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
        """The first accepted task, in a list; empty if there is none.

        `wait` measures this task next, unless the files of another task arrive earlier.
        """
        return list(self._queue.values())[:1]

    def describe_running(self) -> list[str]:
        """Return an empty list, because a cell that runs in this process draws its own progress."""
        return []

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        return {}

    def require_visible(self, paths: Iterable[str]) -> None:
        """Do nothing: this process has already resolved the paths."""

    def submit(self, task: Task) -> None:
        self._queue[self._start_fetch(task)] = task

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """Measure the first task whose files are there, and return it with its outcomes.

        A task that was submitted earlier may still be waiting for disk space.
        """
        began = time.monotonic()
        wait(self._queue, timeout_s, FIRST_COMPLETED)
        self.gpu_wait_s += time.monotonic() - began
        fetched = next((future for future in self._queue if future.done()), None)
        if fetched is None:
            return []
        task = self._queue.pop(fetched)
        return [(task, fetched.result() or self._stages.measure(task))]

    def _start_fetch(self, task: Task) -> "Future[list[Outcome]]":
        """Start the fetch of a task, if it has one, in a daemon thread, which cannot keep a stopping process alive."""
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
