"""Charts of the paper's figures that are not in the HTML report."""

from typing import Any

import altair as alt

from pipeline.analysis.comparison import HEADLINE_METRICS
from pipeline.report import history_charts, theme
from pipeline.report.chart_parts import (
    DIMENSION_TITLE,
    STEP_TITLE,
    ChartContext,
    add_interval,
    band,
    base_chart,
    depth_axis,
    depth_colour,
    dimension_chart,
    dots,
    draw_band,
    layer_charts,
    line,
    plain_step_axis,
    share_axis,
    step_axis,
    value_axis,
)

FACET_COLUMNS = 3


def dimension_over_training(shown: ChartContext) -> alt.LayerChart:
    """Draw dimension over training (mean over the blocks), one line per model; a triangle marks the highest value."""
    base = dimension_chart("steps", "text")
    look, each = theme.model_encodings(shown.histories, shown.kinds), alt.Detail("history:N")
    title = f"{DIMENSION_TITLE}, mean over blocks"
    x, y = step_axis(shown), value_axis("dimension", title)
    top = base.transform_joinaggregate(top="max(dimension)", groupby=["history"])
    peak = top.transform_filter("datum.dimension == datum.top").mark_point(shape="triangle-down", size=90, yOffset=-9)
    return layer_charts(
        band(base).encode(x, value_axis("low", title), alt.Y2("high:Q"), look["color"], each),
        line(base, dots=26).encode(x, y, each, look["color"], look["strokeDash"]),
        peak.encode(x, y, look["color"]),
    )


def profiles_over_training(shown: ChartContext) -> alt.FacetChart:
    """Draw anisotropy over depth, one line per checkpoint and one panel per model."""
    base = base_chart("layers", "text").transform_filter("datum.step != null && datum.block")
    lines = line(base, 1.5).encode(depth_axis(), share_axis(), history_charts.step_colour(shown), alt.Detail("step:N"))
    return _panels(lines)


def text_against_random(shown: ChartContext) -> alt.FacetChart:
    """Draw anisotropy over depth at the newest checkpoint, on text and on random tokens, in one panel per model."""
    base = add_interval(history_charts.newest_on_every_text(), "anisotropy", "anisotropy_se")
    look, each = theme.input_encodings(shown.texts), alt.Detail("text:N")
    drawn = alt.layer(
        band(base).encode(depth_axis(), share_axis("low"), alt.Y2("high:Q"), look["color"], each),
        line(base).encode(depth_axis(), share_axis(), look["color"], look["strokeDash"], each),
        *dots(base, 30, depth_axis(), share_axis(), look["color"], look["shape"], each),
    )
    return _panels(drawn)


def anisotropy_and_sinks(shown: ChartContext) -> alt.FacetChart:
    """Draw anisotropy over depth at the newest checkpoint, with and without sink tokens, in one panel per model."""
    base = base_chart("sinks", "text")
    base = add_interval(base, "anisotropy", "se")
    look, each = theme.token_encodings(), alt.Detail("tokens:N")
    return _panels(
        alt.layer(
            band(base).encode(depth_axis(), share_axis("low"), alt.Y2("high:Q"), look["color"], each),
            line(base).encode(depth_axis(), share_axis(), look["color"], look["strokeDash"], each),
            line(base, 0, dots=24).encode(depth_axis(), share_axis(), look["color"], each),
        )
    )


def spectrum(shown: ChartContext) -> alt.FacetChart:
    """Draw the eigenvalues of the covariance, as shares of the variance, by rank; both axes are logarithmic.

    Each block has a line, and each model and step a panel.
    """
    log, total = alt.Scale(type="log"), "share of the variance"
    x = alt.X("rank:Q", scale=log, title="rank of the eigenvalue", axis=alt.Axis(tickCount=4, format="~s"))
    y = alt.Y("share:Q", scale=log, title=total, axis=alt.Axis(tickCount=5, format="~e"))
    lines = line(base_chart("spectrum", "text"), 1.2).encode(x, y, depth_colour(), alt.Detail("layer:N"))
    return _panels(lines, "panel")


def linearity(shown: ChartContext) -> alt.FacetChart:
    """Draw R^2 of the best linear map from each block to the next layer, over depth, in one panel per model.

    A second line has R^2 of the best linear map to the increment: the next layer minus this one.
    """
    base = base_chart("linearity", "text")
    order = ["next layer", "increment"]
    colour = alt.Color("of:N", title=None, sort=order, scale=alt.Scale(range=["#0072b2", "#d55e00"]))
    dash = alt.StrokeDash("of:N", legend=None, sort=order)
    y = alt.Y("r2:Q", title="R² of a linear map", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    return _panels(line(base, dots=24).encode(depth_axis(), y, colour, dash))


def profile_ridge(shown: ChartContext) -> alt.FacetChart:
    """Draw anisotropy over depth in one row per step, the earliest at the bottom, and one column per model."""
    base = base_chart("layers", "text").transform_filter("datum.step != null && datum.block")
    y = alt.Y("anisotropy:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=None)
    area = base.mark_area(opacity=0.8, line=True, strokeWidth=0.8)
    area = area.encode(depth_axis(), y, history_charts.step_colour(shown)).properties(height=26)
    header = alt.Header(labelAngle=0, labelAlign="left")
    rows = alt.Row("step:O", sort="descending", title=STEP_TITLE, header=header)
    return area.facet(row=rows, column=alt.Column("history:N", title=None), spacing=0).resolve_scale(y="shared")


def _panels(chart: Any, by: str = "history") -> alt.FacetChart:
    small = chart.properties(width=theme.PANEL_WIDTH * 1.2, height=170)
    return small.facet(alt.Facet(f"{by}:N", title=None), columns=FACET_COLUMNS)


def population_over_depth(shown: ChartContext) -> alt.FacetChart:
    """Draw one run over the band of the other runs of its size, over depth at the last step."""
    return draw_band("population", depth_axis(), HEADLINE_METRICS)


def population_over_training(shown: ChartContext) -> alt.FacetChart:
    """Draw one run over the band of the other runs of its size: the mean over the blocks, over training."""
    return draw_band("population_steps", plain_step_axis(), HEADLINE_METRICS)
