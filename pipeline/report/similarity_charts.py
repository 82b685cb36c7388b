"""Charts of similarity, for figures and for the page: maps of layers and of checkpoints, and settling curves."""

from typing import Any

import altair as alt

from pipeline.report import theme
from pipeline.report.chart_parts import (
    ChartContext,
    band,
    base_chart,
    depth_colour,
    layer_axis,
    layer_charts,
    line,
    step_axis,
    tooltips,
)
from pipeline.report.similarity_tables import MEASURE_TITLES

FACET_COLUMNS = 2
SIMILARITY = alt.Color("value:Q", title="similarity", scale=alt.Scale(domain=[0, 1], clamp=True, scheme="viridis"))


def layer_similarity(shown: ChartContext) -> alt.FacetChart:
    """Draw a heat map of the similarity of all pairs of layers at the newest checkpoint, per model and measure."""
    axis = alt.Axis(labelOverlap=True, labelAngle=0)
    x = alt.X("layer:O", title="layer", axis=axis)
    y = alt.Y("other_layer:O", title="layer", sort="descending", axis=axis)
    return _matrices(base_chart("similarity_layers", "text").mark_rect().encode(x, y, SIMILARITY))


def step_similarity(shown: ChartContext) -> alt.FacetChart:
    """Draw a heat map of the CKA of all pairs of checkpoints, per model and block."""
    axis = alt.Axis(labelOverlap=True, labelAngle=-45, format="~s")
    x = alt.X("step:O", title="training step", axis=axis)
    y = alt.Y("other_step:O", title="training step", sort="descending", axis=axis)
    return _matrices(base_chart("similarity_steps", "text").mark_rect().encode(x, y, SIMILARITY))


def settling(shown: ChartContext) -> alt.FacetChart:
    """Draw, over training, the CKA of each block with itself at the last checkpoint, in one panel per model."""
    title, each = "CKA with the last checkpoint", alt.Detail("layer:N")
    colour = alt.Color("depth:Q", scale=alt.Scale(domain=[0, 1]), title="depth", legend=alt.Legend(columns=6))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    base = base_chart("settling", "text")
    drawn = alt.layer(
        band(base, 0.1).encode(step_axis(shown), alt.Y("low:Q", title=title), alt.Y2("high:Q"), colour, each),
        line(base).encode(step_axis(shown), y, colour, each),
    )
    return _panels(drawn)


def draw_layer_maps(shown: ChartContext) -> alt.VConcatChart:
    """Similarity of all pairs of layers at the newest checkpoint of one history, one map per measure."""
    maps = [_map_of_layers(measure) for measure in MEASURE_TITLES.values()]
    return alt.vconcat(*maps, spacing=14).resolve_scale(x="shared", color="shared")


def _map_of_layers(measure: str) -> alt.LayerChart:
    base = base_chart("similarity_layers", "history", "text").transform_filter(f"datum.measure == '{measure}'")
    x = alt.X("other_layer:O", title="other layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    tips = tooltips("layer", "other_layer", "value", "compared_tokens")
    return layer_charts(base.mark_rect(aria=False).encode(x, layer_axis(), SIMILARITY, tips), height=300, title=measure)


def draw_settling(shown: ChartContext) -> alt.LayerChart:
    """CKA of each block of one history with its own last state over training, coloured by depth."""
    base, title, each = base_chart("settling", "history", "text"), "CKA with the last checkpoint", alt.Detail("layer:N")
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    tips = tooltips("layer", "depth", "step", "value", "low", "high", "compared_tokens")
    return layer_charts(
        band(base, 0.1).encode(step_axis(shown), alt.Y("low:Q", title=title), alt.Y2("high:Q"), depth_colour(), each),
        line(base).encode(step_axis(shown), y, depth_colour(), each),
        base.mark_point(filled=True, size=16, aria=False).encode(step_axis(shown), y, depth_colour(), each, tips),
    )


def _matrices(chart: alt.Chart) -> alt.FacetChart:
    """Draw one heat map per value of the column `panel`; each has axes of its own."""
    return _panels(chart).resolve_scale(x="independent", y="independent")


def _panels(chart: Any) -> alt.FacetChart:
    small = chart.properties(width=theme.PANEL_WIDTH * 1.4, height=220)
    return small.facet(alt.Facet("panel:N", title=None), columns=FACET_COLUMNS)
