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
"""SI format, such as 1k for 1000. It is an expression because the same format on an axis prints 1 as 0k."""
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
"""Title and number format in a tooltip; other columns have their name and three decimals."""
TEXT_COLUMNS = ("kind", "state", "pair", "verdict", "doubt")


COLOUR_SCALES = ("range of the map", "0 to 1")
"""Choices of the control `colours`: the range of a heat map's colours, fitted to its values or the same in all maps."""


class ChartContext(NamedTuple):
    """Values of the page's controls, the default first, and scales shared by all charts."""

    histories: tuple[str, ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    last_step: int
    dense: bool
    """True if there are too many checkpoints for a dot on each."""
    gap_limits: dict[str, float]
    """98 % quantile of the absolute difference from random tokens, per metric: one colour scale for all histories."""

    @classmethod
    def from_tables(cls, tables: ChartTables) -> "ChartContext":
        return cls.from_columns(tables.layers, tables.gaps)

    @classmethod
    def from_columns(cls, frame: pl.DataFrame, gaps: pl.DataFrame) -> "ChartContext":
        """Build the context from `history`, `text`, `kind` and `step` of the layers, and the values of the gaps."""
        return cls(
            tuple(frame["history"].unique().sort()),
            tuple(sorted(frame["text"].unique(), key=lambda text: (text.startswith(RANDOM_CORPUS_PREFIX), text))),
            tuple(frame["kind"].unique().sort()),
            int(frame["step"].max() or 0),  # type: ignore[arg-type]
            frame["step"].n_unique() > MAX_DOTTED_STEPS,
            {name: gaps[f"{name}_gap"].abs().quantile(GAP_QUANTILE) or 1.0 for name in ("anisotropy", "id_twonn")},
        )

    def default_choice(self, control: str) -> str:
        """Default value of a control."""
        choices = {
            "history": self.histories,
            "text": self.texts,
            "estimator": (*ESTIMATOR_LABELS,),
            "colours": COLOUR_SCALES,
        }
        return choices[control][0]


def base_chart(table: str, *by: str) -> alt.Chart:
    """Chart of the rows of a named table, filtered by the controls `by`."""
    chart = alt.Chart(alt.NamedData(table))
    for control in by:
        chart = chart.transform_filter(f"datum.{control} == {control}")
    return chart


def dimension_chart(table: str, *by: str) -> alt.Chart:
    """Like `base_chart`, with `dimension` by the selected estimator, its `se` and its 95 % interval."""
    return add_interval(add_dimension(base_chart(table, *by)), "dimension", "se")


def add_dimension(chart: alt.Chart) -> alt.Chart:
    """Add `dimension` by the selected estimator, and its `se`."""
    return chart.transform_calculate(dimension="datum[estimator]", se="datum[estimator + '_se']")


def add_interval(chart: alt.Chart, value: str, se: str) -> alt.Chart:
    """Add `low` and `high`, the 95 % interval; null for rows without a standard error."""
    known = f"datum.{se} == null || datum.t == null ? null : datum.{value}"
    return chart.transform_calculate(low=f"{known} - datum.t * datum.{se}", high=f"{known} + datum.t * datum.{se}")


def layer_charts(*parts: Any, height: int = 320, **kept: Any) -> alt.LayerChart:
    """Layer the parts in one chart of the page's width."""
    return alt.LayerChart(layer=list(parts)).properties(width=WIDTH, height=height, **kept)


def band(chart: alt.Chart, opacity: float = 0.18, **kept: Any) -> alt.Chart:
    """Area from `low` to `high`."""
    return chart.transform_filter("datum.low != null").mark_area(opacity=opacity, aria=False, **kept)


def line(chart: alt.Chart, width: float = 2, dots: int = 0, **kept: Any) -> alt.Chart:
    colour = {"color": kept["color"]} if "color" in kept else {}
    points = {"size": dots, "filled": True} | colour if dots else False
    return chart.mark_line(strokeWidth=width, aria=False, point=points, **kept)


def dots(chart: alt.Chart, size: int, *encoding: Any) -> list[alt.Chart]:
    """Points, hollow if the finding `trust` calls the row doubtful."""
    look: dict[str, Any] = {"size": size, "opacity": 1, "aria": False}
    sound = chart.transform_filter("!datum.doubt").mark_point(filled=True, **look)
    doubtful = chart.transform_filter("datum.doubt").mark_point(filled=False, strokeWidth=1, **look)
    return [points.encode(*encoding) for points in (sound, doubtful)]


def end_labels(chart: alt.Chart, by: str, per: str, word: str) -> alt.Chart:
    """Label each line (one per value of `per`) at its right end along `by` with the value of the expression `word`."""
    last = chart.transform_joinaggregate(end=f"max({by})", groupby=[per])
    last = last.transform_filter(f"datum.{by} == datum.end").transform_calculate(word=word)
    return last.mark_text(align="left", dx=8, aria=False, limit=150).encode(text="word:N")


def step_axis(shown: ChartContext, field: str = "step", labels: bool = True) -> alt.X:
    """Axis of training steps: symlog, logarithmic above 1 and including 0."""
    axis = alt.Axis(values=step_ticks(shown), labelExpr=SHORT_NUMBER_EXPR, labels=labels, grid=False)
    return alt.X(f"{field}:Q", title=STEP_TITLE if labels else None, scale=alt.Scale(type="symlog"), axis=axis)


def step_ticks(shown: ChartContext) -> list[int]:
    return [tick for tick in STEP_TICKS if tick <= shown.last_step]


def checkpoint_axis(labels: bool) -> alt.X:
    """Axis of checkpoints: one column each."""
    axis = alt.Axis(labels=labels, ticks=labels, labelAngle=0, labelExpr=SHORT_NUMBER_EXPR)
    return alt.X("step:O", title=f"{STEP_TITLE} (one column per checkpoint)" if labels else None, axis=axis)


def layer_axis() -> alt.Y:
    """Axis of layers, the first at the bottom."""
    return alt.Y("layer:O", title="layer", sort="descending")


def depth_axis(labels: bool = True) -> alt.X:
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=5, labels=labels)
    return alt.X("depth:Q", title=DEPTH_TITLE if labels else None, scale=scale, axis=axis)


def share_axis(column: str = "anisotropy", title: str = ANISOTROPY_TITLE) -> alt.Y:
    """Axis of a share, always from 0 to 1."""
    return alt.Y(f"{column}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))


def value_axis(column: str, title: str) -> alt.Y:
    """Axis that may exclude zero."""
    return alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=False))


def depth_colour() -> alt.Color:
    return alt.Color("depth:Q", scale=alt.Scale(domain=[0, 1]), title="depth", legend=alt.Legend(type="gradient"))


def tooltips(*columns: str) -> list[alt.Tooltip]:
    return [_tip(column) for column in columns]


def _tip(column: str) -> alt.Tooltip:
    title, form = TOOLTIP_FORMATS.get(column, (column.replace("_", " "), "" if column in TEXT_COLUMNS else ".3f"))
    return alt.Tooltip(column, type="quantitative" if form else "nominal", title=title, format=form)


def draw_band(table: str, x: alt.X, metrics: Sequence[str], columns: int = 3) -> alt.FacetChart:
    """Band of a population (`low` to `high`, dashed `median`) with one run (`value`) over it, a panel per metric."""
    base = alt.Chart(alt.NamedData(table))

    def y(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))

    shade, run = COLOURS[:2]
    area = base.mark_area(opacity=0.2, color=shade).encode(x, y("low"), alt.Y2("high:Q"))
    median = base.mark_line(color=shade, strokeDash=[5, 3]).encode(x, y("median"))
    own = base.mark_line(color=run, point={"size": 16, "color": run}).encode(x, y("value"))
    return facet_by_metric(metrics, area, median, own, columns=columns)


def facet_by_metric(metrics: Sequence[str], *layers: alt.Chart, columns: int = 3) -> alt.FacetChart:
    """One panel per metric, each with its own scale."""
    drawn = alt.layer(*layers).properties(width=250, height=130)
    header = alt.Header(labelFontWeight="bold")
    chart = drawn.facet(alt.Facet("metric:N", title=None, sort=list(metrics), header=header), columns=columns)
    return chart.resolve_scale(y="independent").resolve_axis(x="independent")


def plain_step_axis() -> alt.X:
    """Axis of training steps for a chart without shared scales: symlog, with ticks at powers of ten."""
    axis = alt.Axis(values=STEP_TICKS, labelExpr=SHORT_NUMBER_EXPR, grid=False)
    return alt.X("step:Q", title=STEP_TITLE, scale=alt.Scale(type="symlog"), axis=axis)
