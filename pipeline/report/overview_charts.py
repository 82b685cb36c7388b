"""Charts that compare all models of a lake. Lines and symbols differ between encoders and decoders."""

import altair as alt

from pipeline.report import theme
from pipeline.report.chart_parts import (
    DIMENSION_TITLE,
    ChartContext,
    add_interval,
    band,
    base_chart,
    depth_axis,
    depth_colour,
    dimension_chart,
    dots,
    layer_charts,
    line,
    share_axis,
    step_axis,
    tooltips,
    value_axis,
)


def draw_profile(shown: ChartContext) -> alt.VConcatChart:
    """Draw anisotropy over relative depth at the newest checkpoint of every model, with and without sink tokens."""
    panels = [_profile(shown, "anisotropy", "all tokens", False)]
    panels += [_profile(shown, "anisotropy_no_sink", "without sink tokens", True)]
    return alt.vconcat(*panels, spacing=14).resolve_scale(
        x="shared", color="shared", strokeDash="shared", shape="shared"
    )


def _profile(shown: ChartContext, column: str, title: str, labels: bool) -> alt.LayerChart:
    base = base_chart("layers", "text").transform_filter(f"datum.newest && datum.block && datum.{column} != null")
    base = add_interval(base, column, f"{column}_se")
    look, each = theme.model_encodings(shown.histories, shown.kinds), alt.Detail("history:N")
    tips = tooltips("history", "kind", "step", "layer", "depth", column, f"{column}_se", "doubt")
    x, y = depth_axis(labels), share_axis(column)
    parts = [
        band(base).encode(x, share_axis("low"), alt.Y2("high:Q"), look["color"], each),
        line(base).encode(x, y, each, look["color"], look["strokeDash"]),
        *dots(base, 40, x, y, look["color"], look["shape"], each, tips),
    ]
    return layer_charts(*parts, height=190, title=title)


def draw_dimension_over_depth(shown: ChartContext) -> alt.LayerChart:
    """Draw dimension over relative depth at the newest checkpoint of every model, with its 95 % interval."""
    base = dimension_chart("layers", "text").transform_filter("datum.newest && datum.block && datum.dimension != null")
    look, each = theme.model_encodings(shown.histories, shown.kinds), alt.Detail("history:N")
    tips = tooltips("history", "kind", "step", "layer", "depth", "dimension", "se", "doubt")
    x, y = depth_axis(), value_axis("dimension", DIMENSION_TITLE)
    parts = [
        band(base).encode(x, value_axis("low", DIMENSION_TITLE), alt.Y2("high:Q"), look["color"], each),
        line(base).encode(x, y, each, look["color"], look["strokeDash"]),
        *dots(base, 40, x, y, look["color"], look["shape"], each, tips),
    ]
    return layer_charts(*parts)


def draw_growth(shown: ChartContext) -> alt.LayerChart:
    """Draw anisotropy over training (mean over the blocks), one line per model.

    A second, thin and faint line of the model shows anisotropy without sink tokens.
    """
    base = add_interval(base_chart("steps", "text"), "anisotropy", "anisotropy_se")
    look, each = theme.model_encodings(shown.histories, shown.kinds), alt.Detail("history:N")
    tips = tooltips("history", "step", "anisotropy", "anisotropy_se", "anisotropy_no_sink")
    title = "anisotropy, mean over blocks"
    x, y, no_sink = step_axis(shown), share_axis(title=title), share_axis("anisotropy_no_sink", title)
    parts = [
        band(base).encode(x, share_axis("low", title), alt.Y2("high:Q"), look["color"], each),
        line(base, 1, opacity=0.6).encode(x, no_sink, each, look["color"], look["strokeDash"]),
        line(base, dots=0 if shown.dense else 26).encode(x, y, each, tips, look["color"], look["strokeDash"]),
    ]
    return layer_charts(*parts)


def draw_dimension_multiples(shown: ChartContext) -> alt.FacetChart:
    """Draw dimension over training, in one panel per model, with one line per landmark block."""
    base = dimension_chart("layers", "text").transform_filter("datum.landmark && datum.step != null")
    tips = tooltips("history", "step", "layer", "dimension", "se")
    x, y, dash = step_axis(shown), value_axis("dimension", DIMENSION_TITLE), alt.StrokeDash("layer:O", legend=None)
    lines = line(base, 1.5, dots=0 if shown.dense else 12).encode(x, y, depth_colour(), dash, tips)
    facets = lines.properties(width=theme.PANEL_WIDTH, height=130).facet(alt.Facet("history:N", title=None), columns=3)
    return facets.resolve_scale(y="independent")
