"""Queue of the tasks that wait for a slot, in the order in which they may start."""

import random
import time
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.sweep.task import Task


@dataclass(order=True)
class QueuedTask:
    """A task that may start at `ready_at`. Tasks with the fewest attempts come first, so that a failing task does not
    starve others. A retry on another node (rank 0) precedes all, to detect a bad node before every task fails on it."""

    rank: int
    shuffled: float
    task: Task = field(compare=False)
    ready_at: float = field(compare=False, default=0.0)
    alone: bool = field(compare=False, default=False)
    """True if no other task may run at the same time."""


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
        """Put a removed task back at its former position."""
        insort(self._waiting, queued)

    def remove(self, queued: QueuedTask) -> None:
        self._waiting.remove(queued)

    def find_ready(self, accept: Callable[[Task], bool]) -> QueuedTask | None:
        """Return the first task that may start now and that `accept` accepts; None without such a task."""
        now = time.monotonic()
        return next((one for one in self._waiting if one.ready_at <= now and accept(one.task)), None)

    @property
    def next_ready_at(self) -> float:
        """Time at which the first task may start; 0 for an empty queue."""
        return min((queued.ready_at for queued in self._waiting), default=0.0)
