"""Building blocks of charts: filtered rows, marks, axes, line labels, tooltips."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from pipeline.analysis.random_baselines import RANDOM_CORPUS_PREFIX
from pipeline.report.chart_data import ESTIMATOR_LABELS, ChartTables
from pipeline.report.theme import COLOURS, WIDTH

STEP_TICKS = [0, *(10**power for power in range(8))]
SHORT_NUMBER_EXPR = "format(datum.value, '.3~s')"
"""Vega expression for the label of an axis, such as 1k for 1000. A plain axis `format` of this kind prints 1 as 0k."""
STEP_TITLE = "training step"
DEPTH_TITLE = "depth (block / number of blocks)"
ANISOTROPY_TITLE = "anisotropy"
DIMENSION_TITLE = "intrinsic dimension"
GAP_QUANTILE, MAX_DOTTED_STEPS = 0.98, 40
TOOLTIP_FORMATS = {
    "history": ("model", ""),
    "step": ("step", ",d"),
    "layer": ("layer", "d"),
    "depth": ("depth", ".2f"),
    "se": ("standard error", ".2g"),
    "gap_se": ("standard error", ".2g"),
    "anisotropy_se": ("standard error", ".2g"),
    "anisotropy_no_sink": ("without sink tokens", ".3f"),
    "anisotropy_no_sink_se": ("standard error", ".2g"),
    "id_twonn": ("dimension (TwoNN)", ".2f"),
    "id_twonn_se": ("its standard error", ".2g"),
    "peak_step": ("highest at step", ",d"),
    "peak_step_low": ("95 % from step", ",d"),
    "peak_step_high": ("to step", ",d"),
    "peak_value": ("dimension there", ".2f"),
}
"""Title and number format of a column in tooltips.

A column that is not listed has its name as title, and three decimals unless it is one of TEXT_COLUMNS.
"""
TEXT_COLUMNS = ("kind", "state", "pair", "verdict", "doubt")


COLOUR_SCALES = ("range of the map", "0 to 1")
"""Choices of the control `colours`: the colours of a heat map span the values of this map, or 0 to 1 in every map."""


class ChartContext(NamedTuple):
    """Choices of the page's controls, with the default first, and the scales that all charts share."""

    histories: tuple[str, ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    last_step: int
    dense: bool
    """True if there are more than MAX_DOTTED_STEPS steps. Charts then draw smaller dots or none."""
    gap_limits: dict[str, float]
    """End of the colour scale of differences from random tokens, for `anisotropy` and `id_twonn`.

    It is the 98 % quantile of the absolute differences of all histories, so that their heat maps share one scale.
    """

    @classmethod
    def from_tables(cls, tables: ChartTables) -> "ChartContext":
        return cls.from_columns(tables.layers, tables.gaps)

    @classmethod
    def from_columns(cls, frame: pl.DataFrame, gaps: pl.DataFrame) -> "ChartContext":
        """Build the context from two tables of which it needs a few columns.

        Args:
            frame: rows of `ChartTables.layers` with `history`, `text`, `kind` and `step`.
            gaps: rows of `ChartTables.gaps` with `anisotropy_gap` and `id_twonn_gap`.
        """
        return cls(
            tuple(frame["history"].unique().sort()),
            tuple(sorted(frame["text"].unique(), key=lambda text: (text.startswith(RANDOM_CORPUS_PREFIX), text))),
            tuple(frame["kind"].unique().sort()),
            int(frame["step"].max() or 0),  # type: ignore[arg-type]
            frame["step"].n_unique() > MAX_DOTTED_STEPS,
            {name: gaps[f"{name}_gap"].abs().quantile(GAP_QUANTILE) or 1.0 for name in ("anisotropy", "id_twonn")},
        )

    def default_choice(self, control: str) -> str:
        """Return the default of the control `history`, `text`, `estimator` or `colours`."""
        choices = {
            "history": self.histories,
            "text": self.texts,
            "estimator": (*ESTIMATOR_LABELS,),
            "colours": COLOUR_SCALES,
        }
        return choices[control][0]


def base_chart(table: str, *by: str) -> alt.Chart:
    """Return a chart of a named table, still without marks, that keeps only the rows chosen by the controls `by`."""
    chart = alt.Chart(alt.NamedData(table))
    for control in by:
        chart = chart.transform_filter(f"datum.{control} == {control}")
    return chart


def dimension_chart(table: str, *by: str) -> alt.Chart:
    """Return `base_chart` with `dimension` and `se` by the chosen estimator, and the 95 % interval `low` to `high`."""
    return add_interval(add_dimension(base_chart(table, *by)), "dimension", "se")


def add_dimension(chart: alt.Chart) -> alt.Chart:
    """Add the columns `dimension` and `se`: value and standard error by the estimator that the control selects."""
    return chart.transform_calculate(dimension="datum[estimator]", se="datum[estimator + '_se']")


def add_interval(chart: alt.Chart, value: str, se: str) -> alt.Chart:
    """Add the columns `low` and `high`, the 95 % interval of column `value`; both are null without a standard error."""
    known = f"datum.{se} == null || datum.t == null ? null : datum.{value}"
    return chart.transform_calculate(low=f"{known} - datum.t * datum.{se}", high=f"{known} + datum.t * datum.{se}")


def layer_charts(*parts: Any, height: int = 320, **kept: Any) -> alt.LayerChart:
    """Layer the parts in one chart of the page's width."""
    return alt.LayerChart(layer=list(parts)).properties(width=WIDTH, height=height, **kept)


def band(chart: alt.Chart, opacity: float = 0.18, **kept: Any) -> alt.Chart:
    """Draw the area from `low` to `high`; rows without an interval are left out."""
    return chart.transform_filter("datum.low != null").mark_area(opacity=opacity, aria=False, **kept)


def line(chart: alt.Chart, width: float = 2, dots: int = 0, **kept: Any) -> alt.Chart:
    colour = {"color": kept["color"]} if "color" in kept else {}
    points = {"size": dots, "filled": True} | colour if dots else False
    return chart.mark_line(strokeWidth=width, aria=False, point=points, **kept)


def dots(chart: alt.Chart, size: int, *encoding: Any) -> list[alt.Chart]:
    """Return two charts of points: filled for reliable rows, hollow for rows that the finding `trust` doubts."""
    look: dict[str, Any] = {"size": size, "opacity": 1, "aria": False}
    sound = chart.transform_filter("!datum.doubt").mark_point(filled=True, **look)
    doubtful = chart.transform_filter("datum.doubt").mark_point(filled=False, strokeWidth=1, **look)
    return [points.encode(*encoding) for points in (sound, doubtful)]


def end_labels(chart: alt.Chart, by: str, per: str, word: str) -> alt.Chart:
    """Write a label at the right end of each line.

    Args:
        by: column of the x axis.
        per: column of which each value has one line.
        word: Vega expression of the label.
    """
    last = chart.transform_joinaggregate(end=f"max({by})", groupby=[per])
    last = last.transform_filter(f"datum.{by} == datum.end").transform_calculate(word=word)
    return last.mark_text(align="left", dx=8, aria=False, limit=150).encode(text="word:N")


def step_axis(shown: ChartContext, field: str = "step", labels: bool = True) -> alt.X:
    """Return the axis of training steps. Its scale is symlog: logarithmic for large steps, and defined at step 0."""
    axis = alt.Axis(values=step_ticks(shown), labelExpr=SHORT_NUMBER_EXPR, labels=labels, grid=False)
    return alt.X(f"{field}:Q", title=STEP_TITLE if labels else None, scale=alt.Scale(type="symlog"), axis=axis)


def step_ticks(shown: ChartContext) -> list[int]:
    return [tick for tick in STEP_TICKS if tick <= shown.last_step]


def checkpoint_axis(labels: bool) -> alt.X:
    """Return the axis of a heat map that has one column per checkpoint."""
    axis = alt.Axis(labels=labels, ticks=labels, labelAngle=0, labelExpr=SHORT_NUMBER_EXPR)
    return alt.X("step:O", title=f"{STEP_TITLE} (one column per checkpoint)" if labels else None, axis=axis)


def layer_axis() -> alt.Y:
    """Return the axis of layers, with layer 0 at the bottom."""
    return alt.Y("layer:O", title="layer", sort="descending")


def depth_axis(labels: bool = True) -> alt.X:
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=5, labels=labels)
    return alt.X("depth:Q", title=DEPTH_TITLE if labels else None, scale=scale, axis=axis)


def share_axis(column: str = "anisotropy", title: str = ANISOTROPY_TITLE) -> alt.Y:
    """Return the axis of a share; it always spans 0 to 1."""
    return alt.Y(f"{column}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))


def value_axis(column: str, title: str) -> alt.Y:
    """Return the axis of a quantity; it spans the values and need not include zero."""
    return alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=False))


def depth_colour() -> alt.Color:
    return alt.Color("depth:Q", scale=alt.Scale(domain=[0, 1]), title="depth", legend=alt.Legend(type="gradient"))


def tooltips(*columns: str) -> list[alt.Tooltip]:
    return [_tip(column) for column in columns]


def _tip(column: str) -> alt.Tooltip:
    title, form = TOOLTIP_FORMATS.get(column, (column.replace("_", " "), "" if column in TEXT_COLUMNS else ".3f"))
    return alt.Tooltip(column, type="quantitative" if form else "nominal", title=title, format=form)


def draw_band(table: str, x: alt.X, metrics: Sequence[str], columns: int = 3) -> alt.FacetChart:
    """Draw one run over the band of its population, in one panel per metric.

    The table has the columns `metric`, `low` and `high` (the band), `median` (a dashed line) and `value` (the run).
    """
    base = alt.Chart(alt.NamedData(table))

    def y(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))

    shade, run = COLOURS[:2]
    area = base.mark_area(opacity=0.2, color=shade).encode(x, y("low"), alt.Y2("high:Q"))
    median = base.mark_line(color=shade, strokeDash=[5, 3]).encode(x, y("median"))
    own = base.mark_line(color=run, point={"size": 16, "color": run}).encode(x, y("value"))
    return facet_by_metric(metrics, area, median, own, columns=columns)


def facet_by_metric(metrics: Sequence[str], *layers: alt.Chart, columns: int = 3) -> alt.FacetChart:
    """Draw the layers in one panel per metric; each panel has a y scale of its own."""
    drawn = alt.layer(*layers).properties(width=250, height=130)
    header = alt.Header(labelFontWeight="bold")
    chart = drawn.facet(alt.Facet("metric:N", title=None, sort=list(metrics), header=header), columns=columns)
    return chart.resolve_scale(y="independent").resolve_axis(x="independent")


def plain_step_axis() -> alt.X:
    """Return the axis of training steps for a chart without a ChartContext; ticks are at 0 and at the powers of ten."""
    axis = alt.Axis(values=STEP_TICKS, labelExpr=SHORT_NUMBER_EXPR, grid=False)
    return alt.X("step:Q", title=STEP_TITLE, scale=alt.Scale(type="symlog"), axis=axis)
