"""Caption of a figure: a Markdown file beside it with models, steps, corpus, recipe, errors and a query."""

import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import polars as pl

from pipeline.report.chart_data import ESTIMATOR_LABELS
from pipeline.report.figure_data import FigureOptions

CAPTION_SUFFIX = ".caption.md"


Similarity = tuple[pl.Series, str]
"""For a figure of similarity records: the number of compared tokens of each similarity, and the sentence on errors."""


def write_caption(
    path: Path, title: str, uri: str, options: FigureOptions, rows: pl.DataFrame, similarity: Similarity | None = None
) -> Path:
    """Write the caption of the figure at `path` to NAME.caption.md in the same folder, and return that path.

    Args:
        rows: rows of the lake that the figure shows.
        similarity: None for a figure that shows no similarity records.
    """
    target = path.with_suffix(CAPTION_SUFFIX)
    lines = [*_list_selection(rows), *(_describe_similarity(uri, rows, *similarity) if similarity else ())]
    lines += () if similarity else _describe_rows(uri, options, rows)
    lines += [f"Version: shapelake {version('shapelake')}", f"File: {path.name}"]
    target.write_text(f"# {title}\n\n" + "".join(f"- {line}\n" for line in lines))
    return target


def _list_selection(rows: pl.DataFrame) -> Iterator[str]:
    steps = rows["step"].drop_nulls()
    yield f"Models: {_list(rows['history'])}"
    yield f"Steps: {steps.min():,} to {steps.max():,}, {steps.n_unique()} checkpoints" if len(steps) else "Steps: none"
    yield f"Corpus: {_list(rows['corpus'])}"
    yield f"Recipe: {_list(rows['recipe'])}"


def _describe_similarity(uri: str, rows: pl.DataFrame, tokens: pl.Series, errors: str) -> Iterator[str]:
    fewest, most = tokens.min(), tokens.max()
    yield f"N: {fewest:,} to {most:,} compared tokens" if fewest != most else f"N: {fewest:,} compared tokens"
    yield errors
    cells = ", ".join(_quote(cell) for cell in rows["cell_id"].unique().sort())
    sql = f"SELECT * FROM '{uri}/similarity/v1/**/*.parquet' WHERE cell_id IN ({cells}) ORDER BY model, step, layer"
    yield f"Query (DuckDB): `{sql}`"


def _describe_rows(uri: str, options: FigureOptions, rows: pl.DataFrame) -> Iterator[str]:
    steps, points = rows["step"].drop_nulls(), rows["n_points"].drop_nulls()
    yield f"Estimator of dimension, where shown: {options.estimator} ({ESTIMATOR_LABELS[options.estimator]})"
    yield f"N: {points.min():,} to {points.max():,} points per layer" if len(points) else "N: unknown"
    if options.run is None:
        groups = _list(rows["groups"].cast(pl.String))
        yield f"Error bands: 95 % intervals, Student's t over {groups} groups of contexts"
    else:
        yield f"Run: {options.run}. Band: percentiles 5 to 95 of the other runs of its size, dashed: their median"
    where = f"model IN ({', '.join(map(_quote, rows['model'].unique().sort()))})"
    corpora = ", ".join(_quote(name.partition("#")[0]) for name in rows["corpus"].unique().sort())
    at = f" AND step IN ({', '.join(map(str, steps.unique().sort()))})" if len(steps) else ""
    sql = f"SELECT * FROM layers WHERE {where} AND corpus IN ({corpora}){at} ORDER BY model, step, layer"
    yield f"Query: `{shlex.join(['shapelake', 'query', sql, '--lake', uri])}`"


def _list(values: pl.Series) -> str:
    return ", ".join(values.drop_nulls().unique().sort().to_list()) or "unknown"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
