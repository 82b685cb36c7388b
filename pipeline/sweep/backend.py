"""Where tasks run. The driver knows only this protocol; the inline backend needs no Ray."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from pipeline.sweep.task import Outcome, Task

Work = Callable[[Task], list[Outcome]]
"""The body of a task; never raises."""
Finished = tuple[Task, list[Outcome]]


class Backend(Protocol):
    """Runs tasks; every submitted task comes back from `wait` exactly once, whatever befell it."""

    @property
    def capacity(self) -> int:
        """Tasks it can run at once."""
        ...

    def submit(self, task: Task) -> None: ...

    def wait(self, timeout_s: float) -> list[Finished]:
        """Tasks finished since the last call; waits for one at most so long."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


class InlineBackend:
    """Runs each task in this process, one at a time."""

    capacity = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._queue: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._queue.append(task)

    def wait(self, timeout_s: float) -> list[Finished]:
        if not self._queue:
            return []
        task = self._queue.popleft()
        return [(task, self._work(task))]

    def close(self) -> None:
        self._queue.clear()
