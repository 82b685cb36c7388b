"""Sections of a page: each is one chart with its question, caption, data table, SQL query, controls and findings."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple

import polars as pl
import yaml

from pipeline.report import history_charts, overview_charts, similarity_charts
from pipeline.report.chart_data import ChartTables
from pipeline.report.chart_parts import ChartContext

ASSETS = files("pipeline.report") / "assets"
HISTORY_KEYS = ("model", "kind", "stage", "run")
"""Columns that identify a history in the queries; the control `text` selects the corpus and the recipe."""
HISTORY_KEYS_SQL = ", ".join(HISTORY_KEYS)
BELIEVED_ROWS_SQL = f"""(FROM layers WHERE NOT coalesce(superseded, false) QUALIFY count(DISTINCT step) OVER
  (PARTITION BY {HISTORY_KEYS_SQL}, corpus, corpus_sha256, recipe, layer, weights_digest) <= 1)"""
"""SQL of the rows that charts draw.

It leaves out superseded labels, and weights whose labels state several steps, since at most one of the steps is right.
"""


class Section(NamedTuple):
    """One chart of the page with its texts, its data and its query."""

    name: str
    draw: Callable[[ChartContext], Any]
    question: str
    how_to_read: str
    """Caption of the chart; it also says in words what the chart shows by colour."""
    table: str
    columns: tuple[str, ...]
    """Columns of the table behind the chart, in order; the query returns each of them."""
    query: str
    """SQL over the lake's views; `{history}` and `{text}` stand for the conditions selected by the controls. Empty for
    numbers that are computed from similarity records."""
    controls: tuple[str, ...]
    only: tuple[str, ...] = ()
    """Columns that select the rows to draw: a row of the table is left out if one of these columns is false or null."""
    findings: tuple[str, ...] = ()
    other_tables: tuple[str, ...] = ()
    """Names of further tables whose rows the chart draws as marks."""
    over_training: bool = False
    """True if the chart needs two steps of a history."""
    figure: str = ""
    """Name of the figure that draws the same numbers; shown instead of a query."""

    def has_data(self, tables: ChartTables) -> bool:
        """True if the tables hold rows for the chart and, for a chart over training, two steps of a history."""
        rows = getattr(tables, self.table)
        if self.only:
            flags = [name for name in self.only if rows[name].dtype == pl.Boolean]
            rows = rows.drop_nulls(self.only).filter(*flags)
        steps = rows.group_by("history", "text").agg(pl.col("step").n_unique())
        return not steps.is_empty() and (not self.over_training or steps["step"].max() > 1)  # type: ignore[operator]

    def build_spec(self, shown: ChartContext) -> dict[str, Any]:
        """Build the Vega-Lite spec, without data. It is not validated: that would take most of the time of a page."""
        chart = self.draw(shown).properties(description=f"{self.question} {self.how_to_read}")
        params = [{"name": name, "value": shown.default_choice(name)} for name in self.controls]
        return {"params": params} | chart.to_dict(validate=False)


def _read_sections(page: str, **draw: Callable[[ChartContext], Any]) -> tuple[Section, ...]:
    """Read the sections of one page, `overview` or `history`, from sections.yaml; `draw` has the function of each."""
    sections: dict[str, dict[str, Any]] = yaml.safe_load((ASSETS / "sections.yaml").read_text())[page]
    for fields in sections.values():
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        query = fields["query"].replace("{history_keys}", HISTORY_KEYS_SQL)
        fields["query"] = query.replace("{believed_rows}", BELIEVED_ROWS_SQL)
    return tuple(Section(name, draw[name], **fields) for name, fields in sections.items())


OVERVIEW_SECTIONS = _read_sections(
    "overview",
    profile=overview_charts.draw_profile,
    growth=overview_charts.draw_growth,
    depth=overview_charts.draw_dimension_over_depth,
    multiples=overview_charts.draw_dimension_multiples,
)
HISTORY_SECTIONS = _read_sections(
    "history",
    newest=history_charts.draw_newest,
    map=history_charts.draw_heat_map,
    profiles=history_charts.draw_profiles,
    dimension=history_charts.draw_dimension,
    loss=history_charts.draw_dimension_and_loss,
    random=history_charts.draw_random_gaps,
    similarity=similarity_charts.draw_layer_maps,
    settling=similarity_charts.draw_settling,
)


class ChartSpecs(dict[str, dict[str, Any]]):
    """Vega-Lite specs by the name of their section; each is built when it is first read, which takes 0.2 s."""

    def __init__(self, shown: ChartContext) -> None:
        super().__init__()
        self._shown = shown

    def __missing__(self, name: str) -> dict[str, Any]:
        section = next(section for section in (*OVERVIEW_SECTIONS, *HISTORY_SECTIONS) if section.name == name)
        self[name] = section.build_spec(self._shown)
        return self[name]
