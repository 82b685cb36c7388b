"""Where tasks run. The driver knows only this protocol; the inline backend needs no Ray."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import NamedTuple, Protocol

from pipeline.spec import Cell
from pipeline.sweep.task import Outcome, Task

TaskFunction = Callable[[Task], list[Outcome]]
"""The body of a task, or the fetching of its checkpoint; never raises. Of a fetch that went well, no outcomes."""
FinishedTask = tuple[Task, list[Outcome]]


class TaskFunctions(NamedTuple):
    """What is done to a task: its checkpoint is fetched to this machine, or into its memory, then measured."""

    fetch: TaskFunction
    measure: TaskFunction
    discard: Callable[[Task], None]
    """Removes what was fetched for a task that will not be measured."""


class LeftOutCells(NamedTuple):
    """Cells of one model that a backend can never run."""

    model: str
    cells: int
    why: str

    def __str__(self) -> str:
        return f"{self.model}: {self.cells} cells left out: {self.why}"


def needs_fetch(task: Task, ahead: int) -> bool:
    """Whether a task passes the first stage: one from the Hub always, a local one where something is done ahead."""
    return ahead > 0 or task.checkpoint.remote is not None


class Backend(Protocol):
    """Runs tasks; every submitted task comes back exactly once, from `wait` whatever befell it, or from `withdraw`."""

    @property
    def slots(self) -> int:
        """Tasks it measures at once."""
        ...

    @property
    def capacity(self) -> int:
        """Tasks it can have at once, those being fetched ahead among them."""
        ...

    @property
    def measuring(self) -> list[Task]:
        """What is in its slots."""
        ...

    gpu_wait_s: float
    """How long slots, GPUs where there are any, have been free because files of their next tasks were not there yet."""

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Cells that it can never run, and why, by cell id."""
        ...

    def submit(self, task: Task) -> None: ...

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """Tasks finished since the last call; waits for one at most so long."""
        ...

    def withdraw(self) -> list[Task]:
        """Take back the tasks whose measuring has not begun."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


class InlineBackend:
    """Runs each task in this process, one at a time; threads fetch the checkpoints of those that come next."""

    def __init__(self, stages: TaskFunctions, ahead: int = 0) -> None:
        self.slots, self.capacity, self.gpu_wait_s = 1, 1 + ahead, 0.0
        self._stages, self._ahead = stages, ahead
        self._queue: dict[Future[list[Outcome]], Task] = {}

    @property
    def measuring(self) -> list[Task]:
        """What is measured by the next call of `wait`, if its files are there then."""
        return list(self._queue.values())[:1]

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        return {}

    def submit(self, task: Task) -> None:
        self._queue[self._begun(task)] = task

    def wait(self, timeout_s: float) -> list[FinishedTask]:
        """The first whose files are there: one that waits for room on the disk may wait for another's to go."""
        began = time.monotonic()
        wait(self._queue, timeout_s, FIRST_COMPLETED)
        self.gpu_wait_s += time.monotonic() - began
        fetched = next((future for future in self._queue if future.done()), None)
        if fetched is None:
            return []
        task = self._queue.pop(fetched)
        return [(task, fetched.result() or self._stages.measure(task))]

    def _begun(self, task: Task) -> "Future[list[Outcome]]":
        """The outcome of fetching in the background; the thread does not keep a process alive that wants to end."""
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
