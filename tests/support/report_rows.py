"""Lakes with numbers like the paper's: a dome that grows, a dimension that expands and compresses."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.cell_files import constant_of_type
from pipeline.columns import all_columns
from pipeline.lake import Lake, to_table
from pipeline.recipe import Recipe, built_in_recipe
from pipeline.spec import Cell, Checkpoint, Corpus
from tests.support.lake_rows import sha

QUICK = built_in_recipe("quick@1")
TEXT = Corpus(kind="text", path="prose.txt", sha256=sha("prose"))
RANDOM = Corpus(kind="random-uniform")
SE_SHARE = 0.01
"""Standard errors as a share of the value."""
_TYPES = {column.name: column.type for column in all_columns()}


def lake(
    folder: Path,
    models: dict[str, str],
    steps: tuple[int | None, ...],
    blocks: int = 4,
    recipe: Recipe = QUICK,
    stages: tuple[str | None, ...] = (None,),
) -> str:
    """Write a lake of one history per (name, kind), each on a text and on random tokens; return its URI."""
    made = Lake(folder)
    made.record_recipe(recipe)
    random = np.random.default_rng(0)
    for index, (model, kind) in enumerate(models.items()):
        cells = [
            Cell(checkpoint=checkpoint(model, kind, step, stage), kind=kind, corpus=corpus, recipe=recipe)
            for stage in stages
            for step in steps
            for corpus in (TEXT, RANDOM)
        ]
        rows = [
            _row(cell, layer, blocks, steps[-1] or 0, index, random) for cell in cells for layer in range(blocks + 2)
        ]
        table = to_table(rows, {"recipe": recipe.model_dump_json()})
        for i, cell in enumerate(cells):
            part = table.slice(i * (blocks + 2), blocks + 2)
            assert made.commit(cell.id, cell.checkpoint.model_key, part)
    return str(folder)


def checkpoint(model: str, kind: str, step: int | None, stage: str | None = None) -> Checkpoint:
    return Checkpoint(
        model=model,
        revision=f"{stage or ''}step{step}",
        path="/somewhere",
        tokenizer_path="/somewhere",
        kinds=(kind,),
        weights_digest=sha(f"{model} {stage} {step}"),
        config_digest=sha("config"),
        tokenizer_digest=sha("tokenizer"),
        step=step,
        stage=stage,
    )


def _row(
    cell: Cell, layer: int, blocks: int, last_step: int, model_index: int, random: np.random.Generator
) -> dict[str, Any]:
    """Return the row of one layer; columns that no chart shows are constant."""
    text = cell.corpus.kind == "text"
    depth, progress = min(layer / blocks, 1.0), math.log1p(cell.checkpoint.step or 0) / math.log1p(max(last_step, 1))
    dome = (0.9 - 0.03 * model_index) * math.sin(math.pi * min(depth, 0.98)) if cell.kind == "decoder" else 0.15
    anisotropy = 0.05 + dome * progress * (1 if text else 0.8)
    dimension = 8 + 12 * math.sin(math.pi * min(1, 1.4 * progress)) * (0.5 + depth) + 0.3 * model_index
    noisy = dict(
        anisotropy=anisotropy,
        anisotropy_no_sink=anisotropy * 0.4,
        id_twonn=dimension * (1 if text else 1.3),
        id_mle=dimension * (0.9 if text else 1.2),
        id_mle_c50=dimension,
        id_mle_c90=dimension,
        id_authors=dimension * 1.2,
        loss=11 - 8 * progress + (0 if text else 3),
    )
    values = {name: float(value * (1 + SE_SHARE * random.standard_normal())) for name, value in noisy.items()}
    share = SE_SHARE if getattr(cell.recipe, "groups", 1) > 1 else None
    errors = {f"{name}_se": share and share * value for name, value in values.items() if f"{name}_se" in _TYPES}
    point = cell.checkpoint
    own = {name: value for name, value in point.model_dump().items() if name in _TYPES}
    return (
        {name: constant_of_type(kind) for name, kind in _TYPES.items()}
        | own
        | values
        | errors
        | {
            "cell_id": cell.id,
            "recipe": cell.recipe.label,
            "recipe_fingerprint": cell.recipe.fingerprint,
            "algorithm": 6,
            "kind": cell.kind,
            "corpus": cell.corpus.id,
            "corpus_sha256": cell.corpus.sha256,
            "layer": layer,
            "depth": depth,
            "state": "embedding" if layer == 0 else "block" if layer <= blocks else "final_norm",
            "n_points": 4096,
            "context_tokens": 128,
            **dict.fromkeys(("n_nonfinite", "n_unresolved", "n_duplicates", "n_near_duplicates"), 0),
            "n_params": 1_000_000,
            "status": "ok",
            "flags": [],
            "duplicate_of": None,
            "superseded": None,
            "total_variance": 15.0,
            "eigenvalue_ranks": [1, 2, 4, 8],
            "eigenvalues_at_ranks": [8.0, 4.0, 2.0, 1.0],
            "id_gride_k": [1, 2, 4, 8, 16],
            "id_gride": [dimension] * 5,
            "id_gride_se": [dimension * SE_SHARE] * 5,
        }
    )
