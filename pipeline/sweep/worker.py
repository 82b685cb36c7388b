"""Body of a task: it fetches and loads the checkpoint, and measures and commits each cell.

Exceptions are returned as outcomes with a failure class.
"""

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.catalog.checkpoint_files import LocalFolder, list_weight_files
from pipeline.catalog.fetch import discard_checkpoint, fetch_checkpoint, fetch_temporarily
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
from pipeline.lake.leases import acquire_lease, release_lease
from pipeline.measurement.memory import read_ahead
from pipeline.spec import Cell, Checkpoint
from pipeline.sweep.retry_policy import ErrorClass
from pipeline.sweep.task import Outcome, Task, fail_all_cells, has_wanted_records, is_finished
from pipeline.sweep.watchdog import exit_on_timeout, mark_in_flight

if TYPE_CHECKING:
    from pipeline.measurement.loaded_checkpoint import LoadedCheckpoint, ModelCache
    from pipeline.measurement.similarity import RecordRow

ERROR_CLASS_BY_EXCEPTION: dict[type[ShapelakeError], ErrorClass] = {
    CheckpointError: "permanent",
    CorpusError: "permanent",
    FetchError: "transient",
    FilesChangedError: "changed",
    UsageError: "setup",
    LakeError: "infra",
}
CPU_ALLOCATION_FAILED = "can't allocate memory"
"""Part of the RuntimeError message of torch when an allocation on the CPU fails."""
TimeoutContext = Callable[[Task], AbstractContextManager[None]]


def run_task(task: Task, watch: TimeoutContext = nullcontext) -> list[Outcome]:
    """Measure and commit the cells of one checkpoint; cells committed before a failure stay committed.

    Args:
        watch: makes the context that is entered for loading and again for each cell, so that each has the full timeout.
    """
    started = time.monotonic()
    try:
        return _run_leased(task, Lake(task.lake, task.lake_id), watch)
    except Exception as error:
        return outcomes_of_error(task, error, started)


def _run_leased(task: Task, lake: Lake, watch: TimeoutContext) -> list[Outcome]:
    try:
        if settled := settle_or_lease(task, lake):
            return settled
        with (
            mark_in_flight(task),
            fetch_temporarily(task.checkpoint, task.run_id, task.resources.scratch_bytes) as checkpoint,
        ):
            return _measure_cells(task, lake, checkpoint, watch)
    finally:
        release_lease(lake, task.checkpoint.content, task.run_id)


def settle_or_lease(task: Task, lake: Lake) -> list[Outcome]:
    """Acquire the lease of a task; return outcomes only if another run holds the lease or all cells are finished."""
    if holder := acquire_lease(lake, task.checkpoint.content, task.run_id):
        return fail_all_cells(task, "leased", f"run {holder} is measuring this checkpoint")
    done = [is_finished(lake, cell, task.similarity) for cell in task.cells]
    return [Outcome(cell_id=cell.id, by_another_run=True) for cell in task.cells] if all(done) else []


def prefetch_task(task: Task) -> list[Outcome]:
    """Fetch the task's checkpoint ahead: from the Hub to this machine's disk, or from disk into the page cache.

    Return outcomes if the fetch fails or no cell needs to be measured; otherwise return an empty list and keep the
    lease.
    """
    started = time.monotonic()
    try:
        if settled := settle_or_lease(task, Lake(task.lake, task.lake_id)):
            return settled
        if not task.checkpoint.remotes:
            for path in filter(None, (task.checkpoint.path, task.checkpoint.base_path)):
                _read_ahead(Path(path))
            return []
        fetch_checkpoint(task.checkpoint, task.run_id, task.resources.scratch_bytes)
    except Exception as error:
        return outcomes_of_error(task, error, started)
    return []


def outcomes_of_error(task: Task, error: Exception, started: float) -> list[Outcome]:
    """Return one failed outcome per cell of the task, with the class, message and traceback of `error`.

    To be called while `error` is being handled, because the traceback is that of the current exception.
    """
    seconds = time.monotonic() - started
    return fail_all_cells(task, classify_error(error), format_error(error), traceback.format_exc(), seconds)


def _read_ahead(folder: Path) -> None:
    """Read existing weight files into the page cache; a missing file is reported when the model is loaded."""
    files = LocalFolder(folder)
    read_ahead([folder / name for name in list_weight_files(files) if name in files.names])


def discard_fetched(task: Task) -> None:
    """Delete the fetched files of a task that will not be measured."""
    discard_checkpoint(task.checkpoint, task.run_id)
    release_lease(Lake(task.lake, task.lake_id), task.checkpoint.content, task.run_id)


def run_task_with_timeout(task: Task) -> list[Outcome]:
    """Call `run_task` under the watchdog, which after the timeout saves the stack and ends this process."""
    return run_task(task, exit_on_timeout)


def classify_error(error: BaseException) -> ErrorClass:
    """Return the failure class of an exception; `error` for types that are not listed."""
    for exception, error_class in ERROR_CLASS_BY_EXCEPTION.items():
        if isinstance(error, exception):
            return error_class
    if type(error).__name__ == "OutOfMemoryError":
        return "oom"
    if isinstance(error, MemoryError) or CPU_ALLOCATION_FAILED in str(error):
        return "host_oom"
    if isinstance(error, ConnectionError | TimeoutError):
        return "transient"
    return "error"


def format_error(error: BaseException) -> str:
    """Format an error for the user: the text of a ShapelakeError; for any other exception, its type and text."""
    return str(error) if isinstance(error, ShapelakeError) else f"{type(error).__name__}: {error}"


def _measure_cells(task: Task, lake: Lake, checkpoint: Checkpoint, watch: TimeoutContext) -> list[Outcome]:
    with watch(task):
        from pipeline.measurement.loaded_checkpoint import load_checkpoint  # loads torch and transformers

        models = _model_cache()
        loaded = load_checkpoint(checkpoint, task.cells[0].recipe, task.resources, models)
    outcomes = []
    for cell in task.cells:
        with watch(task):
            outcomes.append(_measure_and_commit(task, lake, cell, loaded))
    if all(outcome.ok for outcome in outcomes):
        models.put(loaded)
    return outcomes


@cache
def _model_cache() -> "ModelCache":
    """Return the model cache of this process, which may run several tasks (inline, or on cluster CPUs)."""
    from pipeline.measurement.loaded_checkpoint import ModelCache

    return ModelCache()


def _measure_and_commit(task: Task, lake: Lake, cell: Cell, loaded: "LoadedCheckpoint") -> Outcome:
    from pipeline.measure import measure_cell
    from pipeline.measurement.provenance import compute_s, file_metadata, summarize_peaks

    started = time.monotonic()
    in_lake = lake.has_cell(cell.id, cell.checkpoint.model_key)  # only once: another run may commit it meanwhile
    if in_lake and has_wanted_records(lake, cell, task.similarity):
        return Outcome(cell_id=cell.id, by_another_run=True)
    try:
        if in_lake:
            return _record_and_commit(task, lake, cell, loaded, started)
        run = {"run_id": task.run_id, "attempt": task.attempt, "download_bytes": task.checkpoint.download_bytes}
        measured = measure_cell(cell, loaded, task.batch_tokens, task.similarity)
        rows = [row | run for row in measured.rows]
        table = to_table(rows, file_metadata(cell.recipe))
        loaded.require_same_files()
        _commit_records(task, lake, cell, measured.records)  # first, so that a cell in the lake has its records
        created = lake.commit(cell.id, cell.checkpoint.model_key, table)
    except Exception as error:
        return outcomes_of_error(task, error, started)[0].model_copy(update={"cell_id": cell.id})
    seconds = time.monotonic() - started
    return Outcome(
        cell_id=cell.id,
        n_rows=len(rows),
        by_another_run=not created,
        seconds=seconds,
        compute_s=compute_s(rows),
        summary=summarize_peaks(rows),
    )


def _record_and_commit(task: Task, lake: Lake, cell: Cell, loaded: "LoadedCheckpoint", started: float) -> Outcome:
    """Make and commit only the similarity records of a cell that is already in the lake."""
    from pipeline.measure import record_cell

    assert task.similarity
    records = record_cell(cell, loaded, task.batch_tokens, task.similarity)
    loaded.require_same_files()
    created = _commit_records(task, lake, cell, records)
    seconds = time.monotonic() - started
    summary = f"similarity records of {len(records)} layers"
    return Outcome(
        cell_id=cell.id,
        n_rows=len(records),
        by_another_run=not created,
        seconds=seconds,
        compute_s=seconds,
        summary=summary,
    )


def _commit_records(task: Task, lake: Lake, cell: Cell, records: "list[RecordRow]") -> bool:
    """Commit the similarity records of a cell, if the task wants any; return False if the lake had them before."""
    if task.similarity is None:
        return False
    from pipeline.lake.similarity_files import commit_records, encode_records
    from pipeline.measurement.provenance import file_metadata

    data = encode_records(records, file_metadata(cell.recipe))
    return commit_records(lake, cell.id, cell.checkpoint.model_key, task.similarity.name, data)
