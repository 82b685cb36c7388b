"""The body of a task: fetch, load once, measure and commit each cell. It never raises across the process border."""

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.catalog.checkpoint_files import LocalFolder, list_weight_files
from pipeline.catalog.fetch import discard_checkpoint, fetch_temporarily
from pipeline.catalog.fetch import fetch_checkpoint as fetch_files
from pipeline.errors import (
    CheckpointError,
    CorpusError,
    FetchError,
    FilesChangedError,
    LakeError,
    ShapelakeError,
    UsageError,
)
from pipeline.lake import Lake, to_table
from pipeline.memory import read_ahead
from pipeline.spec import Cell, Checkpoint
from pipeline.sweep.task import ErrorClass, Outcome, Task, fail_all_cells
from pipeline.sweep.watchdog import exit_on_timeout, mark_in_flight

if TYPE_CHECKING:
    from pipeline.measure import LoadedCheckpoint, ModelCache

ERROR_CLASS_BY_EXCEPTION: dict[type[ShapelakeError], ErrorClass] = {
    CheckpointError: "permanent",
    CorpusError: "permanent",
    FetchError: "transient",
    FilesChangedError: "changed",
    UsageError: "setup",
    LakeError: "infra",
}
TimeoutContext = Callable[[Task], AbstractContextManager[None]]


def run_task(task: Task, watch: TimeoutContext = nullcontext) -> list[Outcome]:
    """Measure and commit the cells of one checkpoint; what was committed before a failure stays committed.

    `watch` is entered for the loading and again for each cell: each has the whole of the timeout.
    """
    started = time.monotonic()
    try:
        with (
            mark_in_flight(task),
            fetch_temporarily(task.checkpoint, task.run_id, task.resources.scratch_bytes) as checkpoint,
        ):
            return _measured(task, checkpoint, watch)
    except Exception as error:
        return _outcomes_of_error(task, error, started)


def prefetch_task(task: Task) -> list[Outcome]:
    """Bring the task's checkpoint nearer before its turn: from the Hub to this machine's disk, where what was written
    last is in memory too, or from the disk into memory. Says what went wrong, if anything did."""
    started = time.monotonic()
    try:
        if task.checkpoint.remote is None:
            return _read(Path(task.checkpoint.path))
        fetch_files(task.checkpoint, task.run_id, task.resources.scratch_bytes)
    except Exception as error:
        return _outcomes_of_error(task, error, started)
    return []


def _outcomes_of_error(task: Task, error: Exception, started: float) -> list[Outcome]:
    """The exception that is being handled, as the outcome of every cell."""
    seconds = time.monotonic() - started
    return fail_all_cells(task, classify_error(error), format_error(error), traceback.format_exc(), seconds)


def _read(folder: Path) -> list[Outcome]:
    """The weight files that are there; loading says what is not."""
    files = LocalFolder(folder)
    read_ahead([folder / name for name in list_weight_files(files) if name in files.names])
    return []


def discard_fetched(task: Task) -> None:
    """Remove what was fetched for a task that will not be measured."""
    discard_checkpoint(task.checkpoint, task.run_id)


def run_task_with_timeout(task: Task) -> list[Outcome]:
    """`work` under a watchdog that ends this process, stack kept, when something takes too long."""
    return run_task(task, exit_on_timeout)


def classify_error(error: BaseException) -> ErrorClass:
    """The class of an exception, decided here where its type is known."""
    for ours, error_class in ERROR_CLASS_BY_EXCEPTION.items():
        if isinstance(error, ours):
            return error_class
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    if isinstance(error, ConnectionError | TimeoutError):
        return "transient"
    return "error"


def format_error(error: BaseException) -> str:
    """What a user can act on: our own errors as they are, others with their type."""
    return str(error) if isinstance(error, ShapelakeError) else f"{type(error).__name__}: {error}"


def _measured(task: Task, checkpoint: Checkpoint, watch: TimeoutContext) -> list[Outcome]:
    with watch(task):
        from pipeline import measure  # torch and transformers: only where work is done

        kept = _model_cache()
        opened = measure.load_checkpoint(checkpoint, task.cells[0].recipe, task.resources, kept)
    there = Lake(task.lake).committed_cell_ids() if task.attempt > 1 else set()
    outcomes = []
    for cell in task.cells:
        with watch(task):
            outcomes.append(Outcome(cell_id=cell.id) if cell.id in there else _measure_and_commit(task, cell, opened))
    if all(outcome.ok for outcome in outcomes):
        kept.put(opened)
    return outcomes


@cache
def _model_cache() -> "ModelCache":
    """Of this process: of use where it does several tasks, inline and on the CPUs of a cluster."""
    from pipeline.measure import ModelCache

    return ModelCache()


def _measure_and_commit(task: Task, cell: Cell, opened: "LoadedCheckpoint") -> Outcome:
    from pipeline import measure
    from pipeline.provenance import compute_s, file_metadata, summarize_peaks

    started = time.monotonic()
    try:
        run = {"run_id": task.run_id, "attempt": task.attempt, "download_bytes": task.checkpoint.download_bytes}
        rows = [row | run for row in measure.measure(cell, opened, task.batch_tokens)]
        table = to_table(rows, file_metadata(cell.recipe))
        Lake(task.lake).commit(cell.id, cell.checkpoint.model_key, table)
    except Exception as error:
        return _outcomes_of_error(task, error, started)[0].model_copy(update={"cell_id": cell.id})
    seconds = time.monotonic() - started
    return Outcome(
        cell_id=cell.id, n_rows=len(rows), seconds=seconds, compute_s=compute_s(rows), summary=summarize_peaks(rows)
    )
