"""The report: one offline HTML file, or an index and one page per history if that file is too large."""

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import polars as pl
import vl_convert

from pipeline import output_paths
from pipeline.lake.reader import LakeReader
from pipeline.report import chart_data, theme
from pipeline.report import tables as printed
from pipeline.report.chart_data import ESTIMATOR_LABELS, ChartTables
from pipeline.report.chart_parts import ChartContext
from pipeline.report.sections import ASSETS, HISTORY_KEYS, HISTORY_SECTIONS, OVERVIEW_SECTIONS, Section
from pipeline.report.verdicts import Verdicts, collect_verdicts

MAX_PAGE_BYTES = 2_500_000
MAX_LAYER_ROWS = 16_000
"""Rows of layers in one file; longer histories are drawn at every n-th step."""
MAX_INDEX_LAYER_ROWS = 8_000
SCRIPT_SECTION_FIELDS = ("table", "columns", "only", "controls", "query")
"""Fields of a section that page.js reads."""


class PageContent(NamedTuple):
    """Content of the pages."""

    uri: str
    frame: pl.DataFrame
    tables: ChartTables
    verdicts: Verdicts
    printed_tables: tuple[printed.ReportTable, ...]
    specs: dict[str, dict[str, Any]]
    """Vega-Lite spec per section, shared by all pages so that scales agree; page.js sets the controls."""

    def for_history(self, history: str) -> "PageContent":
        """Select the content of the page of one history."""
        rows = self.frame.filter(history=history)
        printed_tables = tuple(table.filter_rows(model=rows["model"][0]) for table in self.printed_tables)
        tables, verdicts = self.tables.for_history(history), self.verdicts.for_history(history)
        return PageContent(self.uri, rows, tables, verdicts, printed_tables, self.specs)


def write_report(reader: LakeReader, path: str | Path, models: str = "*") -> list[Path]:
    """Write the report of the models whose name matches; return the paths of its pages, the start page first.

    The report is one file of at most MAX_PAGE_BYTES. A larger one is split into an index and, beside it, a folder of
    the same name with one page per history.

    Raises:
        UsageError: `path` is not a writable .html file, or no model in the lake matches.
    """
    path = output_paths.require_writable_file("report", path, [".html"])
    content = gather_content(reader, models)
    whole = render_page(content, (*OVERVIEW_SECTIONS, *HISTORY_SECTIONS), MAX_LAYER_ROWS)
    histories = ChartContext.from_tables(content.tables).histories
    if len(whole.encode()) <= MAX_PAGE_BYTES or len(histories) == 1:
        path.write_text(whole)
        return [path]
    folder = output_paths.require_writable_folder("pages of the report in", path.with_suffix(""))
    folder.mkdir(exist_ok=True)
    pages = {history: folder / f"{number:02d}-{_slug(history)}.html" for number, history in enumerate(histories, 1)}
    for history, page in pages.items():
        part = content.for_history(history)
        page.write_text(render_page(part, HISTORY_SECTIONS, MAX_LAYER_ROWS, up=f"../{path.name}"))
    links = {history: f"{folder.name}/{page.name}" for history, page in pages.items()}
    index = content._replace(tables=content.tables.for_overview())
    path.write_text(render_page(index, OVERVIEW_SECTIONS, MAX_INDEX_LAYER_ROWS, links=links))
    return [path, *pages.values()]


def gather_content(reader: LakeReader, models: str = "*") -> PageContent:
    """Read the content of all pages from the lake."""
    frame = chart_data.load_chart_rows(reader, models)
    names = frame["model"].unique().sort().to_list()
    of_models = printed.coverage_table(reader, names), printed.failure_table(reader, names)
    printed_tables = (*of_models, printed.method_table(reader))
    tables = chart_data.build_chart_tables(frame)
    shown = ChartContext.from_tables(tables)
    specs = {section.name: section.build_spec(shown) for section in (*OVERVIEW_SECTIONS, *HISTORY_SECTIONS)}
    return PageContent(reader.uri, frame, tables, collect_verdicts(frame), printed_tables, specs)


def render_page(
    content: PageContent, sections: tuple[Section, ...], most: int, links: dict[str, str] | None = None, up: str = ""
) -> str:
    """Render one page as HTML; `most` limits the rows of layers."""
    drawn = content.tables.downsample(most)
    shown = ChartContext.from_tables(drawn)
    used = {section.table for section in sections} | ({"peaks"} if HISTORY_SECTIONS[0] in sections else set())
    data = {
        "tables": {name: chart_data.to_json_columns(frame) for name, frame in drawn._asdict().items() if name in used},
        "specs": {section.name: content.specs[section.name] for section in sections},
        "sections": {each.name: {part: getattr(each, part) for part in SCRIPT_SECTION_FIELDS} for each in sections},
        "where": {"history": _histories(content.frame), "text": _texts(content.frame)},
        "themes": {name: theme.vega_config(name) for name in ("light", "dark")},
        "widths": {"full": theme.WIDTH, "small": theme.PANEL_WIDTH},
        "lake": shlex.quote(content.uri),
    }
    return _template().render(
        content=content,
        shown=shown,
        sections=sections,
        estimators=ESTIMATOR_LABELS,
        facts=_facts(content.frame),
        thinned=drawn.layers.height < content.tables.layers.height,
        links=links or {},
        up=up,
        lake=shlex.quote(content.uri),
        data=to_script_json(data),
        bundle=vega_bundle(),
        style=(ASSETS / "page.css").read_text(),
        code=(ASSETS / "page.js").read_text(),
    )


def to_script_json(value: Any) -> str:
    """Encode as JSON that is safe inside an HTML script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as code for a script element; it defines the global `vegaEmbed`."""
    # A function scope, since the bundle's short top-level names collide with each other and with page.js.
    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"(function(){{{code}}})();".replace("</script", "<\\/script")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters["number"] = _number
    return environment.from_string((ASSETS / "page.html").read_text())


def _facts(frame: pl.DataFrame) -> dict[str, int]:
    labels = frame.select("model", "revision").n_unique()
    counts = {"models": frame["model"].n_unique(), "checkpoints": labels, "texts": frame["text"].n_unique()}
    return counts | {"cells": frame["cell_id"].n_unique(), "rows": frame.height}


def _histories(frame: pl.DataFrame) -> dict[str, str]:
    """SQL condition that selects each history."""
    each = frame.select("history", *HISTORY_KEYS).unique().sort("history")
    return {row.pop("history"): _sql(**row) for row in each.iter_rows(named=True)}


def _texts(frame: pl.DataFrame) -> dict[str, str]:
    """SQL condition that selects each text; the head of the digest disambiguates a shared corpus name."""
    each = frame.select("text", "corpus", "recipe").unique().sort(pl.col("text").str.starts_with("random-"), "text")
    conditions = {}
    for text, corpus, recipe in each.iter_rows():
        name, _, head = corpus.partition("#")
        digest = f" AND coalesce(corpus_sha256, 'none') LIKE '{head}%'" if head else ""
        conditions[text] = _sql(corpus=name, recipe=recipe) + digest
    return conditions


def _sql(**values: str | None) -> str:
    return " AND ".join(f"{name} {_is(value)}" for name, value in values.items())


def _is(value: str | None) -> str:
    return "IS NULL" if value is None else "= '" + value.replace("'", "''") + "'"


def _slug(history: str) -> str:
    return re.sub(r"[^\w.-]", "-", history.replace("/", "--"))


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
