"""What travels between the driver and its workers: tasks out, typed outcomes back; no exception crosses."""

import socket
from typing import Literal

from pydantic import Field

from pipeline.spec import Cell, Checkpoint, Resources
from pipeline.strict_model import StrictModel

ErrorClass = Literal[
    "permanent",  # the checkpoint or the corpus is bad: no retry can help
    "error",  # an exception nobody foresaw, perhaps a defect of this code
    "transient",  # the network, a busy disk
    "oom",  # the device or the process ran out of memory: retried with half the batch
    "host_oom",  # the node killed the worker for its memory
    "crash",  # the worker died
    "timeout",  # the watchdog ended it
    "preempted",  # the node went away
    "changed",  # the files are not those that were planned
    "not_begun",  # the worker died in an earlier cell of the task
    "setup",  # these resources cannot run it
    "infra",  # the lake cannot be written
]


class Task(StrictModel):
    """One checkpoint and its wanted cells: weights are loaded once."""

    lake: str
    run_id: str
    checkpoint: Checkpoint
    cells: tuple[Cell, ...]
    resources: Resources
    attempt: int = 1
    batch_halvings: int = 0
    """How often the batch was halved after running out of memory."""
    memory_slots: int = 1
    """Of how many slots it has the memory: one more each time a node has killed it for its memory."""

    @property
    def batch_tokens(self) -> int:
        return max(self.resources.batch_tokens >> self.batch_halvings, 1)


class Outcome(StrictModel):
    """What became of one cell: committed, or failed with a class, a message and a traceback."""

    cell_id: str
    error_class: ErrorClass | None = None
    message: str = ""
    traceback: str = ""
    host: str = Field(default_factory=socket.gethostname)
    """Where it was tried; empty of a worker that died where Ray does not say."""
    n_rows: int = 0
    seconds: float = 0.0
    compute_s: float = 0.0
    """Of them in forward passes and metrics."""
    summary: str = ""
    """A few words on the result, for the progress line."""

    @property
    def ok(self) -> bool:
        return self.error_class is None


def fail_all_cells(
    task: Task, error_class: ErrorClass, message: str, traceback: str = "", seconds: float = 0.0
) -> list[Outcome]:
    """The same failure for every cell of a task."""
    common = {"message": message[:2000], "traceback": traceback[-4000:], "seconds": seconds}
    return [Outcome(cell_id=cell.id, error_class=error_class, **common) for cell in task.cells]
