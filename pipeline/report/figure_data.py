"""Data of a figure: the rows that its options select, the tables of the report, and those that only figures draw."""

from collections.abc import Callable
from typing import Any, NamedTuple

import polars as pl

from pipeline.analysis.frames import select_block_rows, select_newest_rows
from pipeline.analysis.model_batches import match_names
from pipeline.analysis.population import compute_population
from pipeline.analysis.random_baselines import RANDOM_CORPUS_PREFIX
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader
from pipeline.report.chart_data import (
    ESTIMATOR_LABELS,
    ChartTables,
    build_chart_tables,
    load_chart_rows,
)
from pipeline.report.similarity_tables import layer_matrices, settling_curves, step_matrices
from pipeline.strict_model import suggest

EXTRA_COLUMNS = ("eigenvalue_ranks", "eigenvalues_at_ranks", "top_eigenvalues", "linearity", "linearity_residual")
MAX_LISTED_STEPS = 12


class FigureOptions(NamedTuple):
    """Choice of the rows of a figure, and its look. `models` and `corpus` are globs; sizes are in points at print."""

    models: str = "*"
    corpus: str = "*"
    estimator: str = next(iter(ESTIMATOR_LABELS))
    step: int | None = None
    run: str | None = None
    """Label of the run that is drawn over the band of the other runs of its size; None: no band is drawn."""
    width: int = 480
    height: int | None = None
    title: str | None = None
    """None: the figure's own title; empty: no title."""


class FigureData(NamedTuple):
    """Rows and tables of a figure."""

    rows: pl.DataFrame
    """Rows of the lake that the options select, one per label, text and layer."""
    charts: ChartTables
    tables: dict[str, pl.DataFrame]
    """All tables, those of `charts` included, by the names that charts use."""


def load_figure_data(reader: LakeReader, options: FigureOptions) -> FigureData:
    """Load the rows that the options select, and build the tables of all figures from them.

    Raises:
        UsageError: no model, corpus or step of the lake matches, or the estimator is unknown.
    """
    if options.estimator not in ESTIMATOR_LABELS:
        near = suggest(options.estimator, list(ESTIMATOR_LABELS))
        known = ", ".join(ESTIMATOR_LABELS)
        raise UsageError(f"--estimator {options.estimator}", f"no such estimator{near}", f"Use one of {known}")
    rows = _select_step(_select_corpora(load_chart_rows(reader, options.models), options.corpus), options.step)
    charts = build_chart_tables(rows, with_slow=False)
    newest = select_block_rows(select_newest_rows(rows)).join(_load_extra(reader, rows), on=["cell_id", "layer"])
    tables = {"sinks": _sinks(newest), "spectrum": _spectrum(newest), "linearity": _linearity(newest)}
    is_random = charts.layers["text"].str.starts_with(RANDOM_CORPUS_PREFIX)
    tables["text_and_random"] = charts.layers if is_random.n_unique() == 2 else charts.layers.clear()
    similar = {
        "similarity_layers": lambda: layer_matrices(rows),
        "similarity_steps": lambda: step_matrices(rows),
        "settling": lambda: settling_curves(rows),
    }
    drawn = {name: table for name, table in charts._asdict().items() if name not in similar}
    return FigureData(rows, charts, FigureTables(drawn | tables | _population(reader, options, rows), similar))


def _population(reader: LakeReader, options: FigureOptions, rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Compare `options.run` with the other runs of its size, on the first text; both tables are empty if it is None.

    `population` has the blocks at `options.step`, or at the last step if that is None. `population_steps` has the means
    over the blocks at every step.
    """
    if options.run is None:
        return {"population": pl.DataFrame(), "population_steps": pl.DataFrame()}
    texts = sorted(rows["corpus"].unique(), key=lambda name: (name.startswith(RANDOM_CORPUS_PREFIX), name))
    found = compute_population(reader, options.run, texts[:1]).rows
    last = found["step"].max() if options.step is None else options.step
    layers = found.filter(pl.col("state") == "block", pl.col("step") == last)
    return {"population": layers, "population_steps": found.filter(pl.col("layer").is_null())}


class FigureTables(dict[str, pl.DataFrame]):
    """Tables by name; the tables of similarity records, which take seconds, are built on first access."""

    def __init__(self, tables: dict[str, pl.DataFrame], build: dict[str, Callable[[], pl.DataFrame]]) -> None:
        super().__init__(tables)
        self._build = build

    def __missing__(self, name: str) -> pl.DataFrame:
        self[name] = self._build[name]()
        return self[name]


def _select_corpora(rows: pl.DataFrame, glob: str) -> pl.DataFrame:
    if glob == "*":
        return rows
    chosen = match_names("--corpus", rows["corpus"].unique().sort().to_list(), glob)
    return rows.filter(pl.col("corpus").is_in(chosen))


def _select_step(rows: pl.DataFrame, step: int | None) -> pl.DataFrame:
    if step is None:
        return rows
    steps = rows["step"].drop_nulls().unique().sort().to_list()
    if step not in steps:
        shown = ", ".join(map(str, steps[:MAX_LISTED_STEPS])) + (" ..." if len(steps) > MAX_LISTED_STEPS else "")
        near = min(steps, key=lambda known: abs(known - step), default=0)
        raise UsageError(f"--step {step}", f"the steps are {shown or 'not known'}", f"Write --step {near}")
    return rows.filter(step=step)


def _load_extra(reader: LakeReader, rows: pl.DataFrame) -> pl.DataFrame:
    """Load EXTRA_COLUMNS of the blocks in the cells of these rows; a column that the lake lacks is null."""
    have = set(reader.layers().columns)
    names = [name if name in have else f"NULL AS {name}" for name in EXTRA_COLUMNS]
    found = reader.query_frame(f"SELECT cell_id, layer, {', '.join(names)} FROM layers WHERE state = 'block'")
    return found.join(rows.select("cell_id").unique(), on="cell_id", how="semi")


_KEYS = ("history", "text", "layer", "depth", "step")


def _sinks(newest: pl.DataFrame) -> pl.DataFrame:
    sides = {"all tokens": "anisotropy", "without sinks": "anisotropy_no_sink"}
    parts = [
        newest.select(*_KEYS, "t", tokens=pl.lit(words), anisotropy=name, se=f"{name}_se")
        for words, name in sides.items()
    ]
    return pl.concat(parts).filter(pl.col("anisotropy").is_not_null())


def _spectrum(newest: pl.DataFrame) -> pl.DataFrame:
    """Return one row per block and rank, with the eigenvalue as `share` of the total variance.

    A block has up to 64 log-spaced ranks. A block that an earlier version measured has the ranks 1 to 32.
    """
    step = pl.when(pl.col("step").is_null()).then(pl.lit("")).otherwise(pl.format(", step {}", "step"))
    first = pl.int_ranges(1, pl.col("top_eigenvalues").cast(pl.List(pl.Float64)).list.len() + 1, dtype=pl.Int32)
    named = newest.select(
        *_KEYS,
        panel=pl.col("history") + step,
        total="total_variance",
        rank=pl.coalesce(pl.col("eigenvalue_ranks").cast(pl.List(pl.Int32)), first),
        value=pl.coalesce(pl.col("eigenvalues_at_ranks", "top_eigenvalues").cast(pl.List(pl.Float64))),
    ).drop_nulls(["rank", "value", "total"])
    long = named.filter(pl.col("rank").list.len() == pl.col("value").list.len()).explode("rank", "value")
    return long.filter(pl.col("value") > 0).with_columns(share=pl.col("value") / pl.col("total")).drop("value", "total")


def _linearity(newest: pl.DataFrame) -> pl.DataFrame:
    sides: dict[str, Any] = {"next layer": "linearity", "increment": "linearity_residual"}
    parts = [newest.select(*_KEYS, of=pl.lit(words), r2=pl.col(name).cast(pl.Float64)) for words, name in sides.items()]
    return pl.concat(parts).drop_nulls("r2")
