"""Checkpoints and cells with predictable numbers."""

import hashlib
from typing import Any

from pipeline.columns import all_columns
from pipeline.lake import Failure, Lake, to_table
from pipeline.recipe import built_in_recipe
from pipeline.spec import Cell, Checkpoint, Corpus
from tests.support import lake_rows

QUICK = built_in_recipe("quick@1")
RANDOM = Corpus(kind="random-uniform")
LAYERS = 3


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoint(step: int | None, weights: str | None = None, model: str = "lab/small", **changes: Any) -> Checkpoint:
    """Build a checkpoint; equal words in `weights` give equal digests, None a digest per model and step."""
    return Checkpoint(
        **{
            "model": model,
            "revision": f"step{step}",
            "path": "/somewhere",
            "tokenizer_path": "/somewhere",
            "kinds": ("decoder",),
            "weights_digest": sha(weights or f"{model} {step}"),
            "config_digest": sha("config"),
            "tokenizer_digest": sha("tokenizer"),
            "step": step,
            **changes,
        }
    )


def cell(point: Checkpoint, corpus: Corpus = RANDOM) -> Cell:
    return Cell(checkpoint=point, kind=point.kinds[0], corpus=corpus, recipe=QUICK)


def rows(made: Cell, cell_id: str | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Return one row per layer, without nulls in required or metric columns; anisotropy = layer / 10."""
    point = made.checkpoint
    return [
        {
            **{column.name: _value(column.type) for column in all_columns()},
            **{name: getattr(point, name) for name in type(point).model_fields if name in _NAMES},
            "cell_id": cell_id or made.id,
            "recipe": made.recipe.label,
            "recipe_fingerprint": made.recipe.fingerprint,
            "algorithm": 6,
            "kind": made.kind,
            "corpus": made.corpus.id,
            "corpus_sha256": made.corpus.sha256,
            "layer": layer,
            "depth": layer / (LAYERS - 1),
            "state": "block" if layer else "embedding",
            "anisotropy": layer / 10,
            "mu_quantiles": [1.5],
            "status": "ok",
            "flags": [],
            "duplicate_of": None,
            "superseded": None,
            **changes,
        }
        for layer in range(LAYERS)
    ]


def commit(lake: Lake, point: Checkpoint, **changes: Any) -> str:
    """Commit a cell of `point` and return its id."""
    made = cell(point)
    cell_id = changes.pop("cell_id", made.id)
    assert lake.commit(cell_id, point.model_key, to_table(rows(made, cell_id, **changes), {"recipe": "{}"}))
    return cell_id


_NAMES = {column.name for column in all_columns()}


def _value(kind: str) -> Any:
    if kind.startswith("list<"):
        return [_value(kind.removeprefix("list<").removesuffix(">"))]
    if kind.startswith("timestamp"):
        from datetime import UTC, datetime

        return datetime(2026, 1, 2, tzinfo=UTC)
    return {"string": "word", "bool": False}.get(kind, 0.5 if kind.startswith("float") else 7)


def failure(point, error_class="crash", **changes):
    cell = lake_rows.cell(point)
    return Failure(
        **{
            "cell_id": cell.id,
            "model": point.model,
            "model_key": point.model_key,
            "revision": point.revision,
            "corpus": cell.corpus.id,
            "corpus_sha256": cell.corpus.sha256,
            "recipe": cell.recipe.label,
            "kind": cell.kind,
            "error_class": error_class,
            "message": "the worker died",
            "command": "shapelake measure ...",
            "run_id": "run-1",
            "attempt": 1,
            **changes,
        }
    )
