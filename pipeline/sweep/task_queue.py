"""Queue of the tasks that wait for a slot, in the order in which they may start."""

import random
import time
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.sweep.task import Task


@dataclass(order=True)
class QueuedTask:
    """A task that waits for a slot. Queued tasks are sorted by priority: first by `rank`, then by `shuffled`."""

    rank: int
    """Queue priority: tasks with the lowest rank start first.

    The rank is `Task.attempt`, so that a task that fails again and again does not delay the others. After a failure
    that calls for another node, the rank is 0: the retry starts before all other tasks, so that a bad node is detected
    before every task has failed on it.
    """
    shuffled: float
    """Random number, which puts tasks of equal rank in random order."""
    task: Task = field(compare=False)
    ready_at: float = field(compare=False, default=0.0)
    """Earliest time at which the task may start, in seconds of `time.monotonic`."""
    alone: bool = field(compare=False, default=False)
    """True if no other task may run at the same time."""


class TaskQueue:
    """Waiting tasks, sorted by rank from the lowest on; tasks of equal rank are in random order."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waiting: list[QueuedTask] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[QueuedTask]:
        return iter(self._waiting)

    def add(self, task: Task, rank: int, delay_s: float = 0.0, alone: bool = False) -> None:
        self.put_back(QueuedTask(rank, self._rng.random(), task, time.monotonic() + delay_s, alone))

    def put_back(self, queued: QueuedTask) -> None:
        """Insert a queued task at the place that its priority gives it, such as a task that was removed before."""
        insort(self._waiting, queued)

    def remove(self, queued: QueuedTask) -> None:
        self._waiting.remove(queued)

    def find_ready(self, accept: Callable[[Task], bool]) -> QueuedTask | None:
        """Return the first task that may start now and that `accept` accepts; None if there is none."""
        now = time.monotonic()
        return next((one for one in self._waiting if one.ready_at <= now and accept(one.task)), None)

    @property
    def next_ready_at(self) -> float:
        """Earliest `ready_at` of all waiting tasks, in seconds of `time.monotonic`; 0 for an empty queue."""
        return min((queued.ready_at for queued in self._waiting), default=0.0)
