"""A cell for tests on a GPU, and the headline columns that they compare."""

from pathlib import Path

from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.spec import Cell, Sweep
from tests.support import tiny_checkpoints as tiny

HEADLINES = ("anisotropy", "anisotropy_no_sink", "id_twonn", "id_mle", "effective_rank_lambda", "loss", "norm_median")


def cell(folder: Path) -> Cell:
    wanted = {"name": "t", "checkpoints": [{"local": str(folder)}], "corpora": [{"random-uniform": {}}]}
    sweep = Sweep.model_validate({**wanted, "recipe": {**tiny.RECIPE, "contexts": 64}})
    checkpoint = inspect_checkpoint(folder)
    return Cell(checkpoint=checkpoint, corpus=sweep.corpora[0], recipe=sweep.recipe, kind=checkpoint.kinds[0])
