"""Queue of the tasks that wait for a slot, in the order in which they may start."""

import random
import time
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.sweep.task import Task


@dataclass(order=True)
class QueuedTask:
    """A task that may start at `ready_at`. Fewest attempts first, so that a failing task starves no other, but
    a retry on another node (rank 0) goes first: a bad node is recognised before every task has failed on it."""

    rank: int
    shuffled: float
    task: Task = field(compare=False)
    ready_at: float = field(compare=False, default=0.0)
    alone: bool = field(compare=False, default=False)
    """The task starts when no other runs, and no other starts beside it."""


class TaskQueue:
    """Waiting tasks in order of rank, shuffled within a rank."""

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
        """Return a task that was taken out to its former place."""
        insort(self._waiting, queued)

    def remove(self, queued: QueuedTask) -> None:
        self._waiting.remove(queued)

    def find_ready(self, accept: Callable[[Task], bool]) -> QueuedTask | None:
        """First task that may start now and that `accept` accepts."""
        now = time.monotonic()
        return next((one for one in self._waiting if one.ready_at <= now and accept(one.task)), None)

    @property
    def next_ready_at(self) -> float:
        """Time at which the first task may start; 0 for an empty queue."""
        return min((queued.ready_at for queued in self._waiting), default=0.0)
