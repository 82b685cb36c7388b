"""Driver of a chaos run on its own local Ray, and the task function: numbers that follow from the bytes of a file."""

import hashlib
import random
import sys
import time
from pathlib import Path

from pipeline.catalog.digests import FileStates, require_unchanged
from pipeline.errors import ShapelakeError
from pipeline.lake import Lake, to_table
from pipeline.lake.leases import release_lease
from pipeline.spec import Sweep
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from pipeline.sweep.worker import classify_error, format_error, settle_or_lease
from tests.support import stub_checkpoints as stub

WEIGHTS = "model.safetensors"


def sweep(root: Path) -> Sweep:
    return stub.sweep(root, cpus=2, slots=2, drain_s=5)


def number_of(weights: bytes) -> float:
    """The number that a checkpoint with these weights must have in the lake."""
    return int(hashlib.sha256(weights).hexdigest()[:8], 16) / 2**32


def work(task: Task) -> list[Outcome]:
    """Measure late what may be written over meanwhile, with the checks of the real worker."""
    lake = Lake(task.lake, task.lake_id)
    try:
        if settled := settle_or_lease(task, lake):
            return settled
        files = FileStates.now(task.checkpoint)
        time.sleep(random.uniform(0.02, 0.2))
        number = number_of((Path(task.checkpoint.path) / WEIGHTS).read_bytes())
        require_unchanged(task.checkpoint)  # like `load_checkpoint`, or a write before this task would pass
        files.require_same()
        return [_commit(task, lake, number)]
    except ShapelakeError as error:
        return fail_all_cells(task, classify_error(error), format_error(error))
    finally:
        release_lease(lake, task.checkpoint.content, task.run_id)


def _commit(task: Task, lake: Lake, number: float) -> Outcome:
    (cell,) = task.cells
    rows = [row | {"id_twonn": number} for row in stub.rows(cell)]
    created = lake.commit(cell.id, cell.checkpoint.model_key, to_table(rows, {"recipe": cell.recipe.label}))
    return Outcome(cell_id=cell.id, n_rows=len(rows), by_another_run=not created, compute_s=0.1)


def main(root: str, uri: str) -> int:
    lake = Lake(uri)
    return run(make_plan(sweep(Path(root)), lake), lake, "ray", work).exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
