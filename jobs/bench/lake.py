"""Large compacted lake: planning a sweep over it, opening it, and a query by model and layer."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl

from jobs.bench.comparison import Comparison, Subject, within
from jobs.bench.scale import Scale
from jobs.bench.stub import stub_history
from jobs.bench.timing import interleaved, timed
from pipeline.lake import Lake, open_lake, snapshot
from pipeline.lake.cell_index import CellIndex, aggregate_cells
from pipeline.lake.layout import CELLS_PREFIX
from pipeline.lake.scan import polars_schema
from pipeline.spec import Checkpoint, Corpus, Local, Sweep, algorithm_number, built_in_recipe
from pipeline.strict_model import digest_json
from pipeline.sweep.plan import make_plan

ROUNDS = 5
MODELS, CORPORA, RECIPES = 50, 5, 2
"""Number of each; every checkpoint has one cell per corpus and recipe."""
WANTED = 16
PLAN_LIMIT_S, OPENING_LIMIT_S, QUERY_LIMIT_S = 1.0, 1.0, 0.2
QUERY = "SELECT step, anisotropy, id_twonn FROM layers WHERE model = 'lab/model-7' AND layer = 1 ORDER BY ALL"


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lake = Lake(root / "lake")
        _fill(lake, scale)
        yield from _time_queries(lake, scale)
        yield from _time_plans(stub_history(root / "stubs", WANTED), lake, scale)


def _fill(lake: Lake, scale: Scale) -> None:
    """Fill a lake with `scale.cells` empty cell files, the labels of all checkpoints and a snapshot of all rows."""
    checkpoints = [_checkpoint(index) for index in range(scale.cells // (CORPORA * RECIPES))]
    lake.record_labels(checkpoints)
    cells = pl.concat([_cells(checkpoints, corpus, recipe) for corpus in range(CORPORA) for recipe in range(RECIPES)])
    _touch(lake, cells.select("model_key", "cell_id").rows())
    layers = _layer_rows(cells.drop("model_key"), scale.rows // len(cells)).lazy()
    key = pl.format(f"{CELLS_PREFIX}/model_key={{}}/{{}}.parquet", "model_key", "cell_id").alias("key")
    known = aggregate_cells(layers).drop("layers").join(cells.lazy().select(key, "cell_id"), on="cell_id").collect()
    with patch.object(snapshot, "load_cell_index", return_value=CellIndex(layers, known)):
        snapshot.compact(lake)


def _checkpoint(index: int) -> Checkpoint:
    model, step = f"lab/model-{index % MODELS}", index // MODELS
    return Checkpoint(
        model=model,
        revision=f"step{step}",
        path="",
        tokenizer_path="",
        kinds=("decoder",),
        weights_digest=digest_json([model, step], bits=256),
        config_digest=digest_json(model, bits=256),
        tokenizer_digest=digest_json("tokenizer", bits=256),
        step=step,
    )


def _cells(checkpoints: Sequence[Checkpoint], corpus: int, recipe: int) -> pl.DataFrame:
    """Return one row per checkpoint with the identity columns of its cell for this corpus and recipe."""
    label_columns = ("model", "model_key", "revision", "step", "weights_digest", "config_digest", "tokenizer_digest")
    columns = {name: [getattr(checkpoint, name) for checkpoint in checkpoints] for name in label_columns}
    columns["cell_id"] = [digest_json([checkpoint.label, corpus, recipe]) for checkpoint in checkpoints]
    return pl.DataFrame(columns).with_columns(
        corpus=pl.lit(f"text:{corpus}"),
        recipe=pl.lit(f"recipe@{recipe}"),
        recipe_fingerprint=pl.lit(str(recipe)),
        kind=pl.lit("decoder"),
        algorithm=pl.lit(algorithm_number()),
        status=pl.lit("ok"),
    )


def _touch(lake: Lake, cells: Sequence[tuple[str, ...]]) -> None:
    for model_key, cell_id in cells:
        path = Path(lake.uri, CELLS_PREFIX, f"model_key={model_key}", f"{cell_id}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _time_plans(root: Path, lake: Lake, scale: Scale) -> Iterator[Comparison]:
    """Time the plan of a sweep before and after all its cells exist, opening the lake anew each time."""
    corpora = (Corpus(kind="random-uniform"),)
    sources = (Local(local=str(root), model="lab/model-7"),)
    sweep = Sweep(name="bench", checkpoints=sources, corpora=corpora, recipe=built_in_recipe("quick@1"))
    plan = make_plan(sweep, lake)
    assert len(plan.todo) == WANTED
    plans = timed(lambda: make_plan(sweep, Lake(lake.uri)))
    new = interleaved({"plan": plans}, ROUNDS)["plan"]
    lake.record_labels(plan.checkpoints)
    _touch(lake, [(cell.checkpoint.model_key, cell.id) for cell in plan.cells])
    done = interleaved({"plan": plans}, ROUNDS)["plan"]
    assert not make_plan(sweep, lake).todo
    labels = f"{scale.cells // (CORPORA * RECIPES):,} labels"
    for case, took in {"of a finished sweep": done, "of new checkpoints of a known model": new}.items():
        subject = Subject("lake", f"plan {case} over a lake of cells", scale.cells)
        yield within(subject, took, PLAN_LIMIT_S, labels, scale.full)


def _time_queries(lake: Lake, scale: Scale) -> Iterator[Comparison]:
    reader = open_lake(lake.uri)
    found = reader.query_frame(QUERY)
    assert len(found) == scale.cells // MODELS, found
    contenders = {"query": timed(lambda: reader.query_frame(QUERY)), "opening": timed(lambda: open_lake(lake.uri))}
    took = interleaved(contenders, ROUNDS)
    query = Subject("lake", "query by model and layer, snapshot", scale.rows)
    yield within(query, took["query"], QUERY_LIMIT_S, promised=scale.full)
    opening = Subject("lake", "opening a lake for reading", scale.cells)
    yield within(opening, took["opening"], OPENING_LIMIT_S, promised=scale.full)


def _layer_rows(cells: pl.DataFrame, layers: int) -> pl.DataFrame:
    """Return `layers` rows per cell; columns that neither the query nor the views read are null."""
    rows = cells.join(pl.DataFrame({"layer": range(layers)}), how="cross")
    numbers = np.random.default_rng(0).random((2, len(rows)))
    rows = rows.with_columns(
        anisotropy=pl.lit(numbers[0]),
        id_twonn=pl.lit(numbers[1]),
        depth=pl.col("layer") / layers,
        state=pl.lit("block"),
    )
    columns = [
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in polars_schema().items()
    ]
    return rows.select(columns)
