"""Caption of a figure, written beside it as Markdown: models, steps, corpus, recipe, errors and the query."""

import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import polars as pl

from pipeline.report.chart_data import ESTIMATOR_LABELS
from pipeline.report.figure_data import FigureOptions

CAPTION_SUFFIX = ".caption.md"


def write_caption(path: Path, title: str, uri: str, options: FigureOptions, rows: pl.DataFrame) -> Path:
    """Write the caption of the figure at `path` beside it, as NAME.caption.md; `rows` are the rows of the figure."""
    target = path.with_suffix(CAPTION_SUFFIX)
    target.write_text(f"# {title}\n\n" + "".join(f"- {line}\n" for line in _lines(path, uri, options, rows)))
    return target


def _lines(path: Path, uri: str, options: FigureOptions, rows: pl.DataFrame) -> Iterator[str]:
    steps, points = rows["step"].drop_nulls(), rows["n_points"].drop_nulls()
    yield f"Models: {_list(rows['history'])}"
    yield f"Steps: {steps.min():,} to {steps.max():,}, {steps.n_unique()} checkpoints" if len(steps) else "Steps: none"
    yield f"Corpus: {_list(rows['corpus'])}"
    yield f"Recipe: {_list(rows['recipe'])}"
    yield f"Estimator of dimension, where shown: {options.estimator} ({ESTIMATOR_LABELS[options.estimator]})"
    yield f"N: {points.min():,} to {points.max():,} points per layer" if len(points) else "N: unknown"
    if options.run is None:
        groups = _list(rows["groups"].cast(pl.String))
        yield f"Error bands: 95 % intervals, Student's t over {groups} groups of contexts"
    else:
        yield f"Run: {options.run}. Band: percentiles 5 to 95 of the other runs of its size, dashed: their median"
    yield f"Version: shapelake {version('shapelake')}"
    where = f"model IN ({', '.join(map(_quote, rows['model'].unique().sort()))})"
    corpora = ", ".join(_quote(name.partition("#")[0]) for name in rows["corpus"].unique().sort())
    at = f" AND step IN ({', '.join(map(str, steps.unique().sort()))})" if len(steps) else ""
    sql = f"SELECT * FROM layers WHERE {where} AND corpus IN ({corpora}){at} ORDER BY model, step, layer"
    yield f"Query: `{shlex.join(['shapelake', 'query', sql, '--lake', uri])}`"
    yield f"File: {path.name}"


def _list(values: pl.Series) -> str:
    return ", ".join(values.drop_nulls().unique().sort().to_list()) or "unknown"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
