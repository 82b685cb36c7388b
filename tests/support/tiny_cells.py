"""Cells of tiny checkpoints on random tokens, their rows, and the columns that must be equal in two runs."""

from pathlib import Path

from pipeline import measure
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.columns import column_names
from pipeline.measurement.loaded_checkpoint import load_checkpoint
from pipeline.spec import Cell, Resources, Sweep
from tests.support import tiny_checkpoints as tiny

CPU = Resources(cpus=1)


def cell(folder: Path, contexts: int = 8, kept: int = 16) -> Cell:
    """Cell of the checkpoint in `folder` on random tokens."""
    recipe = {**tiny.RECIPE, "contexts": contexts, "kept_per_context": kept}
    sweep = Sweep.model_validate(
        {"name": "t", "checkpoints": [{"local": str(folder)}], "corpora": [{"random-uniform": {}}], "recipe": recipe}
    )
    checkpoint = inspect_checkpoint(folder)
    return Cell(checkpoint=checkpoint, corpus=sweep.corpora[0], recipe=sweep.recipe, kind=checkpoint.kinds[0])


def measured(folder: Path, length: int) -> list[dict]:
    """Rows for `length` times 16 contexts per group, with the same number of points for every length."""
    wanted = cell(folder, contexts=16 * length, kept=16 // length)
    return measure.measure(wanted, load_checkpoint(wanted.checkpoint, wanted.recipe, CPU), 512)


def numbers(rows: list[dict]) -> list[dict]:
    """Rows without the columns that may differ between two runs."""
    free = {*column_names("cost", "provenance")}
    return [{name: value for name, value in row.items() if name not in free} for row in rows]
