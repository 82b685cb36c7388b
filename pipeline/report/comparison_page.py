"""Pages of `shapelake compare`: each is an offline HTML file without scripts that has SVG charts and their tables."""

import shlex
from pathlib import Path
from typing import NamedTuple

import altair as alt
import polars as pl
import vl_convert

from pipeline import output_paths
from pipeline.analysis.comparison import CORPORA, HEADLINE_METRICS, HISTORIES, Comparison
from pipeline.analysis.population import Population
from pipeline.report import theme
from pipeline.report.chart_parts import depth_axis, draw_band, facet_by_metric, plain_step_axis
from pipeline.report.page import load_template
from pipeline.report.sections import ASSETS
from pipeline.report.tables import ReportTable, make_report_table

COMPARED = ("corpus", "recipe", "kind")
"""Columns that divide the rows of a page: each combination of their values has charts of its own."""
SIMILARITY = {"cka": "CKA", "overlap_4": "overlap of 4 neighbours"}
"""Measures of the similarity charts, with their names in the caption."""
MAX_TABLE_ROWS = 4000
COLOUR = theme.COLOURS[0]


class DrawnChart(NamedTuple):
    heading: str
    caption: str
    svg: str


def write_comparison(found: Comparison, path: str | Path, uri: str) -> Path:
    """Write the page of a comparison to `path`, and return the path; `uri` is that of the lake.

    Raises:
        UsageError: `path` is not a writable .html file.
    """
    lead = f"{found.second} minus {found.first}: every metric, with 95 % intervals."
    table = _table(found.rows, "Differences, b minus a. Rows without a layer are means over the blocks.")
    charts = [*_draw_comparison(found), *_similarity_charts(found)]
    tables = [table, *_similarity_tables(found)]
    return _write(path, "Comparison", lead, found.notes, charts, tables, _compare_command(found, uri), uri)


def _draw_comparison(found: Comparison) -> list[DrawnChart]:
    """Draw the differences in one chart per corpus, recipe and kind.

    The charts of two histories show the mean over the blocks over training; all others show each block over depth.
    """
    over, chosen = "depth", pl.col("state") == "block"
    caption = "The difference of each block, with its 95 % interval for this block alone."
    if found.of == HISTORIES:
        over, chosen = "step", pl.col("layer").is_null()
        caption = "The difference of the mean over the blocks at every common step, with its 95 % interval."
    parts = _divide(found.rows.filter(chosen), also="corpus_b" if found.of == CORPORA else None)
    return [DrawnChart(heading, caption, _draw_differences(part, over)) for heading, part in parts]


def _compare_command(found: Comparison, uri: str) -> str:
    sides = (found.first, found.second)
    labels = dict.fromkeys(side.label for side in sides)
    return _command(list(labels), list(dict.fromkeys(side.corpus for side in sides if side.corpus)), uri)


def _similarity_charts(found: Comparison) -> list[DrawnChart]:
    """Draw similarity over depth, in one chart per corpus, recipe and kind; return no charts without similarities.

    Of two histories, the charts show the last step that has a similarity, for each corpus, recipe and kind.
    """
    rows = found.last_similarity()
    if rows.is_empty():
        return []
    parts = _divide(rows.filter(pl.col("state") == "block"))
    return [chart for heading, part in parts for chart in _draw_similarity(heading, part)]


def _draw_similarity(heading: str, rows: pl.DataFrame) -> list[DrawnChart]:
    """Chart of the measures that have a value in one of these layers; an empty list if none has."""
    known = [name for name in SIMILARITY if rows[name].null_count() < rows.height]
    if not known:
        return []
    columns = [
        rows.select("depth", metric=pl.lit(name), difference=name, low=f"{name}_low", high=f"{name}_high")
        for name in known
    ]
    nulls = " and ".join(f"{rows[f'{name}_null'].max():.3f} ({SIMILARITY[name]})" for name in known)
    caption = (
        "Similarity of corresponding layers on the same tokens, with its 95 % interval: 1 for equal geometry up to "
        f"rotation and scale; unrelated layers have {nulls}."
    )
    step = rows["step"][0]
    at = "" if step is None else f", step {step:,}"
    svg = _draw_differences(pl.concat(columns), "depth", "similarity")
    return [DrawnChart(f"Similarity: {heading}{at}", caption, svg)]


def _similarity_tables(found: Comparison) -> list[ReportTable]:
    """Return one table with the numbers behind the similarity charts, or an empty list without similarities."""
    rows = found.last_similarity()
    if rows.is_empty():
        return []
    caption = "Similarity of corresponding layers; cka bound: largest difference from the CKA of whole kernels."
    return [_table(rows.drop("state", *(name for name in rows.columns if name.startswith("imbalance"))), caption)]


def write_population(found: Population, path: str | Path, uri: str) -> Path:
    """Write the page that compares a training run with the other runs of its model size, and return its path.

    Raises:
        UsageError: `path` is not a writable .html file.
    """
    lead = f"{found.run} against {len(found.others)} other runs of its size: {', '.join(found.others)}."
    charts = draw_population_charts(found)
    table = _table(found.rows, "The run, and the band of the others. Rows without a layer are means over the blocks.")
    notes = (*found.notes, "By chance, a run lies outside of n other runs at one point with probability 2 / (n + 1).")
    command = f"{_command([found.run.label], list(found.corpora), uri)} --population"
    return _write(path, "A run against its population", lead, notes, charts, [table], command, uri)


def draw_population_charts(found: Population) -> list[DrawnChart]:
    """Draw a run over the band of the others, for each corpus, recipe and kind.

    One chart shows the last step over depth. If there are several steps, another shows the mean over the blocks by
    step.
    """
    charts = []
    for heading, part in _divide(found.rows):
        last = part.filter(pl.col("state") == "block", pl.col("step") == part["step"].max())
        caption = "Shaded: percentiles 5 to 95 of the other runs. Dashed: median of these runs. Full line: this run."
        if not last.is_empty():
            at = f"{heading}, step {part['step'].max():,}, over depth"
            charts.append(DrawnChart(at, caption, _draw_population(last, "depth")))
        means = part.filter(pl.col("layer").is_null())
        if means["step"].n_unique() > 1:
            svg = _draw_population(means, "step")
            charts.append(DrawnChart(f"{heading}, mean over the blocks, over training", caption, svg))
    return charts


def _divide(rows: pl.DataFrame, also: str | None = None) -> list[tuple[str, pl.DataFrame]]:
    """Divide the rows by corpus, recipe, kind and the column `also`; return the heading and the rows of each part."""
    keys = [*COMPARED, *([also] if also else [])]
    parts = rows.partition_by(keys, maintain_order=True, as_dict=True)
    return [(", ".join(str(each) for each in (key[0], *key[3:], *key[1:3])), part) for key, part in parts.items()]


def _axis(over: str) -> alt.X:
    return depth_axis() if over == "depth" else plain_step_axis()


def _finish(chart: alt.FacetChart, rows: pl.DataFrame) -> str:
    """Return the SVG of a chart that refers to its data as the named table `rows`."""
    spec = chart.to_dict(validate=False) | {"datasets": {"rows": rows.to_dicts()}, "config": theme.print_config()}
    return vl_convert.vegalite_to_svg(spec)


def _metrics(rows: pl.DataFrame) -> list[str]:
    """Return the metrics of the rows: first those of HEADLINE_METRICS, then the others by name."""
    known = {*rows["metric"]}
    return [name for name in HEADLINE_METRICS if name in known] + sorted(known - {*HEADLINE_METRICS})


def _draw_differences(rows: pl.DataFrame, over: str, title: str = "difference") -> str:
    base, x = alt.Chart(alt.NamedData("rows")), _axis(over)

    def y(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", title=title, axis=alt.Axis(tickCount=4))

    known = base.transform_filter("datum.low != null")
    zero = base.mark_rule(color=theme.LEGEND_GREY).encode(y=alt.datum(0))
    area = known.mark_area(opacity=0.2, color=COLOUR).encode(x, y("low"), alt.Y2("high:Q"))
    line = base.mark_line(color=COLOUR, point={"size": 16, "color": COLOUR}).encode(x, y("difference"))
    return _finish(facet_by_metric(_metrics(rows), zero, area, line), rows)


def _draw_population(rows: pl.DataFrame, over: str) -> str:
    return _finish(draw_band("rows", _axis(over), _metrics(rows)), rows)


def _table(rows: pl.DataFrame, caption: str) -> ReportTable:
    """Return a table of the rows, without empty columns and without columns `_b` that repeat another column.

    If there are more than MAX_TABLE_ROWS rows, the table has only the means over the blocks.
    """
    if rows.height > MAX_TABLE_ROWS:
        rows = rows.filter(pl.col("layer").is_null())
        caption = f"{caption} For every layer use --json."
    same = [f"{name}_b" for name in ("layer", "corpus") if f"{name}_b" in rows.columns]
    rows = rows.drop(name for name in same if rows[name].equals(rows[name.removesuffix("_b")], null_equal=True))
    shown = rows.select(name for name in rows.columns if rows[name].null_count() < rows.height)
    return make_report_table("numbers", caption, "", shown)


def _command(labels: list[str], corpora: list[str], uri: str) -> str:
    corpus = ["--corpus", ",".join(corpora)] if corpora else []
    return shlex.join(["shapelake", "compare", *labels, *corpus, "--lake", uri])


def _write(
    path: str | Path,
    title: str,
    lead: str,
    notes: tuple[str, ...],
    charts: list[DrawnChart],
    tables: list[ReportTable],
    command: str,
    uri: str,
) -> Path:
    path = output_paths.require_writable_file("compare", path, [".html"])
    style = (ASSETS / "page.css").read_text()
    page = load_template("comparison.html").render(
        title=title, lead=lead, notes=notes, charts=charts, tables=tables, command=command, uri=uri, style=style
    )
    path.write_text(page)
    return path
