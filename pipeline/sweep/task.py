"""Messages between driver and workers: the driver sends tasks, and gets an outcome per cell back.

No exception crosses the process boundary: a failure is an outcome with a failure class.
"""

import socket

from pydantic import Field

from pipeline.lake import Lake
from pipeline.spec import Cell, Checkpoint, Resources, Similarity
from pipeline.strict_model import StrictModel
from pipeline.sweep.retry_policy import ErrorClass


class Task(StrictModel):
    """One checkpoint and its wanted cells; the weights are loaded once for all cells."""

    lake: str
    lake_id: str | None = None
    """Id of the lake when the run began; the worker refuses to write to a lake with another id."""
    run_id: str
    checkpoint: Checkpoint
    cells: tuple[Cell, ...]
    resources: Resources
    similarity: Similarity | None = None
    """Size of the similarity records to make of every cell; None = no records."""
    attempt: int = 1
    """Number of this attempt at the task, counted from 1. Every retry in a run adds one, whatever its reason. In a run
    after failures of classes that count across runs, it starts above 1."""
    batch_halvings: int = 0
    """Number of times that the batch was halved, once after each GPU out-of-memory failure."""
    canary_host: str | None = None
    """Host that a canary task checks; empty = any host; None = not a canary task."""
    memory_slots: int = 1
    """Number of slots whose memory the task reserves; raised by one after each host out-of-memory failure."""

    @property
    def batch_tokens(self) -> int:
        return max(self.resources.batch_tokens >> self.batch_halvings, 1)


def is_finished(lake: Lake, cell: Cell, similarity: Similarity | None) -> bool:
    """Return True if the lake has the cell and, if records are wanted, its similarity records."""
    return lake.has_cell(cell.id, cell.checkpoint.model_key) and has_wanted_records(lake, cell, similarity)


def has_wanted_records(lake: Lake, cell: Cell, similarity: Similarity | None) -> bool:
    """Return True if the lake has the similarity records of a cell, or if none are wanted."""
    return similarity is None or lake.has_records(cell.id, cell.checkpoint.model_key, similarity.name)


def finished_cell_ids(lake: Lake, similarity: Similarity | None) -> set[str]:
    """Return the ids of the cells in the lake; if similarity records are wanted, only of those cells that have them."""
    committed = lake.committed_cell_ids()
    if similarity is None:
        return committed
    return committed & {cell_id for cell_id, size in lake.record_files() if size == similarity.name}


class Outcome(StrictModel):
    """Result of one cell: committed, or failed with a class, a message and a traceback."""

    cell_id: str
    error_class: ErrorClass | None = None
    message: str = ""
    traceback: str = ""
    host: str = Field(default_factory=socket.gethostname)
    """Host of the attempt; empty for a dead worker if Ray does not report its host."""
    n_rows: int = 0
    """Number of rows that this task measured; 0 if another task or run had committed the cell."""
    by_another_run: bool = False
    """True if another run committed the cell, before or while this task measured it."""
    seconds: float = 0.0
    compute_s: float = 0.0
    """Part of `seconds` spent in forward passes and metrics."""
    summary: str = ""
    """Short description of the result for the progress line."""

    @property
    def ok(self) -> bool:
        return self.error_class is None


def fail_all_cells(
    task: Task, error_class: ErrorClass, message: str, traceback: str = "", seconds: float = 0.0
) -> list[Outcome]:
    """Return the same failure for every cell of a task."""
    common = {"message": message[:2000], "traceback": traceback[-4000:], "seconds": seconds}
    return [Outcome(cell_id=cell.id, error_class=error_class, **common) for cell in task.cells]
