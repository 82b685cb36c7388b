"""One page of the report: an offline HTML file with its data, charts, sentences and tables."""

import json
import shlex
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
import polars as pl
import vl_convert

from pipeline.analysis.random_baselines import RANDOM_CORPUS_PREFIX
from pipeline.cache import table
from pipeline.errors import UsageError
from pipeline.report import chart_data, theme
from pipeline.report import tables as printed
from pipeline.report.chart_data import ESTIMATOR_LABELS, ChartTables
from pipeline.report.chart_parts import COLOUR_SCALES, ChartContext
from pipeline.report.sections import ASSETS, HISTORY_KEYS, ChartSpecs, Section
from pipeline.report.verdicts import Verdicts

MAX_PAGE_BYTES = 2_500_000
SCRIPT_SECTION_FIELDS = ("table", "columns", "only", "controls", "query", "figure")
"""Fields of a section that page.js reads."""


class PageContent(NamedTuple):
    """Content of a page."""

    uri: str
    facts: dict[str, int]
    """Counts by name: `models`, `checkpoints`, `texts`, `cells` and `rows`."""
    where: dict[str, dict[str, str]]
    """SQL conditions in two levels: first the control (`history` or `text`), then the name that it selects.

    `where["history"][name]` is true for the rows of this history, `where["text"][name]` for those of this text.
    """
    tables: ChartTables
    verdicts: Verdicts
    printed_tables: tuple[printed.ReportTable, ...]
    specs: ChartSpecs
    """Vega-Lite specs by the name of the section. All pages share them, so that their scales are equal."""


class PageOptions(NamedTuple):
    """Parts of a page: sections with charts, and links to other pages."""

    sections: tuple[Section, ...]
    most: int
    """Largest number of rows of `tables.layers` that the page has; a larger table is thinned."""
    links: Mapping[str, str] = MappingProxyType({})
    """Addresses of the other pages by the name of their history; empty on a page that does not link to them."""
    up: str = ""
    """Address of the start page; empty on the start page itself."""
    without_pages: str = ""
    """Command that writes pages, for an index that has neither charts nor pages; empty on all other pages."""


def render_page(content: PageContent, options: PageOptions) -> str:
    """Render one page as HTML."""
    drawn = content.tables.downsample(options.most)
    sections = tuple(section for section in options.sections if section.has_data(drawn))
    shown = ChartContext.from_tables(drawn)
    used = {table for section in sections for table in (section.table, *section.other_tables)}
    data = {
        "tables": {name: chart_data.to_json_columns(frame) for name, frame in drawn._asdict().items() if name in used},
        "specs": {section.name: content.specs[section.name] for section in sections},
        "sections": {each.name: {part: getattr(each, part) for part in SCRIPT_SECTION_FIELDS} for each in sections},
        "where": content.where,
        "themes": {name: theme.vega_config(name) for name in ("light", "dark")},
        "widths": {"full": theme.WIDTH, "small": theme.PANEL_WIDTH},
        "lake": shlex.quote(content.uri),
    }
    return load_template("page.html").render(
        content=content,
        shown=shown,
        sections=sections,
        not_drawn=[section.question for section in options.sections if section not in sections],
        estimators=ESTIMATOR_LABELS,
        has_map=any("colours" in section.controls for section in sections),
        colour_scales=COLOUR_SCALES,
        options=options,
        thinned=drawn.layers.height < content.tables.layers.height,
        lake=shlex.quote(content.uri),
        data=to_script_json(data),
        bundle=vega_bundle() if sections else "",
        style=(ASSETS / "page.css").read_text(),
        code=(ASSETS / "page.js").read_text(),
    )


def to_script_json(value: Any) -> str:
    """Encode as JSON that is safe inside an HTML script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as code for a script element; it defines the global `vegaEmbed`.

    Building it takes two seconds, so it is kept in the user's cache, if there is one.
    """
    try:
        stored = table("vega")
    except UsageError:  # no folder for the cache
        return _build_vega_bundle()
    code = stored.get("bundle", release := version("vl-convert-python"))
    if code is None:
        stored.put("bundle", release, code := _build_vega_bundle())
    return code


def _build_vega_bundle() -> str:
    # The code is wrapped in a function, since its short top-level names would collide with each other and with page.js.
    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"(function(){{{code}}})();".replace("</script", "<\\/script")


@cache
def load_template(name: str) -> jinja2.Template:
    """Load the template of this name from the folder `assets`."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters["number"] = _number
    return environment.from_string((ASSETS / name).read_text())


def count_facts(frame: pl.DataFrame) -> dict[str, int]:
    """Count the models, checkpoints, texts, cells and rows of a frame."""
    labels = frame.select("model", "revision").n_unique()
    counts = {"models": frame["model"].n_unique(), "checkpoints": labels, "texts": frame["text"].n_unique()}
    return counts | {"cells": frame["cell_id"].n_unique(), "rows": frame.height}


def select_conditions(frame: pl.DataFrame) -> dict[str, dict[str, str]]:
    """Return SQL conditions, as in `PageContent.where`, for all histories and texts of a frame."""
    return {"history": _histories(frame), "text": _texts(frame)}


def _histories(frame: pl.DataFrame) -> dict[str, str]:
    """Return the SQL condition of each history, by the name of the history."""
    each = frame.select("history", *HISTORY_KEYS).unique().sort("history")
    return {row.pop("history"): _sql(**row) for row in each.iter_rows(named=True)}


def _texts(frame: pl.DataFrame) -> dict[str, str]:
    """Return the SQL condition of each text, by the name of the text.

    If several texts share a corpus name, the condition also compares the first digits of the text's SHA-256.
    """
    each = (
        frame.select("text", "corpus", "recipe")
        .unique()
        .sort(pl.col("text").str.starts_with(RANDOM_CORPUS_PREFIX), "text")
    )
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


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
