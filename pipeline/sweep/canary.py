"""Canary task, which measures a tiny random checkpoint to tell a broken machine from a broken checkpoint.

It takes the same code path as every task (start of the process, libraries, loading, device, metrics), but commits
nothing.
"""

import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.recipe import ContextRecipe
from pipeline.spec import Cell, Checkpoint, Corpus, Resources
from pipeline.strict_model import digest_json
from pipeline.sweep.backend import TaskFunction
from pipeline.sweep.task import Outcome, Task
from pipeline.sweep.watchdog import mark_in_flight
from pipeline.sweep.worker import TimeoutContext, outcomes_of_error

CANARY_TIMEOUT_S = 600.0
"""Smallest timeout of the canary in seconds. A canary spends most of its time on imports of libraries, for which the
timeout of a sweep may be too short."""
CANARY_CORPUS = Corpus(kind="random-uniform")
CANARY_RECIPE = ContextRecipe(
    name="canary", version=1, contexts=32, groups=2, context_tokens=16, kept_per_context=8, k=4, authors_points=64
)


def make_canary(host: str, lake: str, run_id: str, number: int, resources: Resources) -> Task:
    """Create the canary task of a host; its checkpoint is a placeholder until the task runs.

    Args:
        host: host to check; empty = any host.
        number: number of this canary in the run, counted from 1.
    """
    digest = digest_json(["canary", host], bits=256)
    checkpoint = Checkpoint(
        model="canary",
        revision=host or "any host",
        path="",
        tokenizer_path="",
        kinds=("decoder",),
        weights_digest=digest,
        config_digest=digest,
        tokenizer_digest=digest,
    )
    cell = _cell(checkpoint)
    timeout_s = max(resources.timeout_s, CANARY_TIMEOUT_S)
    return Task(
        lake=lake,
        run_id=run_id,
        checkpoint=checkpoint,
        cells=(cell,),
        resources=resources.model_copy(update={"timeout_s": timeout_s}),
        attempt=number,
        canary_host=host,
    )


def with_canary(measure: TaskFunction, watch: TimeoutContext = nullcontext) -> TaskFunction:
    """Return a task function that calls `run_canary` (within `watch`) for a canary task and `measure` for any other."""

    def measure_or_canary(task: Task) -> list[Outcome]:
        return measure(task) if task.canary_host is None else run_canary(task, watch)

    return measure_or_canary


def run_canary(task: Task, watch: TimeoutContext) -> list[Outcome]:
    """Write, load and measure the tiny checkpoint; failures are classified like those of any task."""
    started = time.monotonic()
    try:
        with mark_in_flight(task), watch(task), TemporaryDirectory(prefix="shapelake-canary-") as folder:
            _measure_tiny_checkpoint(Path(folder), task)
    except Exception as error:
        return outcomes_of_error(task, error, started)
    return [Outcome(cell_id=cell.id, seconds=time.monotonic() - started) for cell in task.cells]


def _measure_tiny_checkpoint(folder: Path, task: Task) -> None:
    from pipeline.measure import measure  # loads torch and transformers
    from pipeline.measurement.loaded_checkpoint import load_checkpoint
    from pipeline.model.tiny_checkpoint import write_tiny_checkpoint

    write_tiny_checkpoint(folder)
    cell = _cell(inspect_checkpoint(folder))
    rows = measure(cell, load_checkpoint(cell.checkpoint, cell.recipe, task.resources), task.batch_tokens)
    if wrong := [row["status"] for row in rows if row["status"] != "ok"]:
        raise ArithmeticError(f"the canary task measured its tiny checkpoint with status {wrong[0]}")


def _cell(checkpoint: Checkpoint) -> Cell:
    return Cell(checkpoint=checkpoint, kind="decoder", corpus=CANARY_CORPUS, recipe=CANARY_RECIPE)
