"""Charts of one history: profiles over depth, heat maps of layer by checkpoint, and curves over training."""

import altair as alt

from pipeline.analysis.phases import WORDS
from pipeline.analysis.random_baselines import RANDOM_CORPUS_PREFIX
from pipeline.report import theme
from pipeline.report.chart_parts import (
    ANISOTROPY_TITLE,
    COLOUR_SCALES,
    DIMENSION_TITLE,
    SHORT_NUMBER_EXPR,
    STEP_TITLE,
    ChartContext,
    add_dimension,
    add_interval,
    band,
    base_chart,
    checkpoint_axis,
    depth_axis,
    depth_colour,
    dimension_chart,
    dots,
    end_labels,
    layer_axis,
    layer_charts,
    line,
    share_axis,
    step_axis,
    step_ticks,
    tooltips,
    value_axis,
)

HISTORY_CONTROLS = ("history", "text")
DIMENSION_COLOUR, LOSS_COLOUR = "#0072b2", "#d55e00"
PEAK_COLOUR, IS_SIGNIFICANT_EXPR = "#c0392b", f"indexof({sorted(WORDS.peaked)}, datum.verdict) >= 0"


def draw_heat_map(shown: ChartContext) -> alt.VConcatChart:
    """Draw two heat maps of anisotropy by layer and checkpoint: with and without sink tokens.

    Dots mark significant interior maxima.
    """
    panels = [_map(shown, "anisotropy", "all tokens", False)]
    panels += [_map(shown, "anisotropy_no_sink", "without sink tokens", True)]
    return alt.vconcat(*panels, spacing=14).resolve_scale(x="shared", color="independent")


def _map(shown: ChartContext, column: str, title: str, labels: bool) -> alt.LayerChart:
    base = base_chart("layers", *HISTORY_CONTROLS).transform_filter(f"datum.step != null && datum.{column} != null")
    tips = tooltips("step", "layer", "state", column, "anisotropy_se", "id_twonn", "id_twonn_se", "loss", "doubt")
    colour = alt.Color(f"{column}:Q", title=ANISOTROPY_TITLE)
    tiles = base.mark_rect(aria=False).encode(checkpoint_axis(labels), layer_axis(), colour, tips)
    marks = _significant_peaks(base, column).mark_point(
        size=6 if shown.dense else 28, color="white", stroke="black", strokeWidth=0.5, filled=True, aria=False
    )
    parts = (tiles, _unit_range(), marks.encode(checkpoint_axis(labels), layer_axis()))
    return layer_charts(*parts, height=190, title=title)


def _unit_range() -> alt.Chart:
    """Return invisible marks at 0 and 1, which widen the colour scale to 0..1 if the control `colours` asks for it."""
    ends = alt.Chart(alt.Data(values=[{"end": 0}, {"end": 1}])).transform_filter(f"colours == '{COLOUR_SCALES[1]}'")
    return ends.mark_point(opacity=0, aria=False).encode(alt.Color("end:Q", title=ANISOTROPY_TITLE))


def _significant_peaks(base: alt.Chart, column: str) -> alt.Chart:
    """Select the highest block of each checkpoint if it is significantly above the first and the last block.

    It must exceed both by more than the half-width of the 95 % interval of an unpaired difference: t * sqrt(2) * its
    standard error. A flat profile has no such block.
    """
    blocks = base.transform_filter("datum.block")
    blocks = blocks.transform_joinaggregate(first="min(layer)", last="max(layer)", groupby=["step"])
    is_end = "datum.layer == datum.first || datum.layer == datum.last"
    blocks = blocks.transform_calculate(end=f"{is_end} ? datum.{column} : null")
    highest = blocks.transform_joinaggregate(top=f"max({column})", ends="max(end)", groupby=["step"])
    margin = f"datum.t * sqrt(2) * datum.{column}_se"
    return highest.transform_filter(f"datum.{column} == datum.top && datum.top - datum.ends > {margin}")


def newest_on_every_text(*by: str) -> alt.Chart:
    """Return a chart, still without marks, of the blocks at the newest checkpoint on every text.

    The column `input` has the value `text` or `random tokens`. The controls `by` choose the rows, as in `base_chart`.
    """
    base = base_chart("layers", *by).transform_filter("datum.newest && datum.block")
    is_random = f"indexof(datum.text, '{RANDOM_CORPUS_PREFIX}') == 0"
    return base.transform_calculate(input=f"{is_random} ? 'random tokens' : 'text'")


def draw_newest(shown: ChartContext) -> alt.VConcatChart:
    """Draw the newest checkpoint over depth, on every text, in three panels.

    The panels show anisotropy with sink tokens, anisotropy without sink tokens, and dimension.
    """
    base = newest_on_every_text("history")
    panels = [
        _over_depth(shown, base, share_axis("anisotropy"), "anisotropy_se", "all tokens"),
        _over_depth(shown, base, share_axis("anisotropy_no_sink"), "anisotropy_no_sink_se", "without sink tokens"),
        _over_depth(shown, add_dimension(base), value_axis("dimension", DIMENSION_TITLE), "se", ""),
    ]
    return alt.vconcat(*panels, spacing=14).resolve_scale(x="shared", color="shared", strokeDash="shared")


def _over_depth(shown: ChartContext, base: alt.Chart, y: alt.Y, se: str, title: str) -> alt.LayerChart:
    column = y.shorthand.removesuffix(":Q")
    base = add_interval(base.transform_filter(f"datum.{column} != null"), column, se)
    look, each, x = theme.input_encodings(shown.texts), alt.Detail("text:N"), depth_axis(labels=not title)
    tips = tooltips("text", "step", "layer", "depth", column, se, "doubt")
    low = y.copy()
    low.shorthand = "low:Q"
    return layer_charts(
        band(base).encode(x, low, alt.Y2("high:Q"), look["color"], each),
        line(base).encode(x, y, each, look["color"], look["strokeDash"]),
        *dots(base, 30, x, y, look["color"], look["shape"], each, tips),
        height=150,
        title=title,
    )


def draw_profiles(shown: ChartContext) -> alt.LayerChart:
    """Draw anisotropy over depth, one line per checkpoint, coloured by step.

    The first and the last line have labels, and the last one is bold.
    """
    base = base_chart("layers", *HISTORY_CONTROLS).transform_filter("datum.step != null && datum.block")
    colour = step_colour(shown)
    tips = tooltips("step", "layer", "depth", "anisotropy", "anisotropy_se")
    last = base.transform_filter("datum.newest")
    first = base.transform_joinaggregate(begin="min(step)").transform_filter("datum.step == datum.begin")
    x, y = depth_axis(), share_axis()
    return layer_charts(
        line(base, 1.3).encode(x, y, colour, tips, detail="step:N"),
        line(last, 3, dots=40).encode(x, y, colour, tips),
        *(end_labels(part, "depth", "history", "'step ' + datum.step").encode(x, y) for part in (first, last)),
    )


def step_colour(shown: ChartContext) -> alt.Color:
    legend = alt.Legend(type="gradient", values=step_ticks(shown), labelExpr=SHORT_NUMBER_EXPR)
    return alt.Color("step:Q", scale=alt.Scale(type="symlog"), title=STEP_TITLE, legend=legend)


def draw_dimension(shown: ChartContext) -> alt.LayerChart:
    """Draw dimension over training, one line per block.

    Landmark blocks are bold and have their 95 % band, and a triangle at their peak.
    """
    base = dimension_chart("layers", *HISTORY_CONTROLS).transform_filter("datum.step != null && datum.block")
    bold = base.transform_filter("datum.landmark")
    x, y, each = step_axis(shown), value_axis("dimension", DIMENSION_TITLE), alt.Detail("layer:N")
    tips = tooltips("step", "layer", "dimension", "se", "loss", "doubt")
    return layer_charts(
        line(base, 1, opacity=0.35).encode(x, y, depth_colour(), each),
        band(bold).encode(x, value_axis("low", DIMENSION_TITLE), alt.Y2("high:Q"), depth_colour(), each),
        line(bold).encode(x, y, depth_colour(), alt.StrokeDash("layer:O", legend=None)),
        *dots(bold, 8 if shown.dense else 20, x, y, depth_colour(), tips),
        *_peaks(shown),
        end_labels(bold, "step", "layer", "'layer ' + datum.layer").encode(x, y),
        height=380,
    )


def _peaks(shown: ChartContext) -> list[alt.Chart]:
    """Mark the peak of each landmark block with a triangle.

    If rise and fall are both significant, the triangle is filled, and a line shows the 95 % interval of the peak's
    step. Otherwise it is hollow.
    """
    base = base_chart("peaks", *HISTORY_CONTROLS, "estimator").transform_filter("datum.landmark")
    tips = tooltips("layer", "verdict", "peak_step", "peak_step_low", "peak_step_high", "peak_value")
    significant = alt.condition(IS_SIGNIFICANT_EXPR, alt.value(1), alt.value(0))
    look = {"fill": PEAK_COLOUR, "stroke": PEAK_COLOUR, "opacity": 1, "aria": False}
    marks = base.mark_point(shape="triangle-down", size=80, yOffset=-9, **look)
    y = value_axis("peak_value", DIMENSION_TITLE)
    return [
        base.transform_filter(IS_SIGNIFICANT_EXPR)
        .mark_rule(color=PEAK_COLOUR, aria=False)
        .encode(step_axis(shown, "peak_step_low"), y, x2="peak_step_high:Q"),
        marks.encode(step_axis(shown, "peak_step"), y, tips, fillOpacity=significant),
    ]


def draw_dimension_and_loss(shown: ChartContext) -> alt.VConcatChart:
    """Draw dimension (mean over the blocks) in a panel above the loss, on a shared axis of steps."""
    upper = dimension_chart("steps", *HISTORY_CONTROLS)
    lower = base_chart("steps", *HISTORY_CONTROLS).transform_filter("datum.loss != null")
    lower = add_interval(lower, "loss", "loss_se")
    panels = [
        _over_steps(shown, upper, "dimension", f"{DIMENSION_TITLE}, mean", DIMENSION_COLOUR, False),
        _over_steps(shown, lower, "loss", "loss (nats per token)", LOSS_COLOUR, True),
    ]
    return alt.vconcat(*panels, spacing=10).resolve_scale(x="shared")


def _over_steps(
    shown: ChartContext, base: alt.Chart, column: str, title: str, colour: str, labels: bool
) -> alt.LayerChart:
    x, y = step_axis(shown, labels=labels), value_axis(column, title)
    tips = tooltips("step", column, "low", "high")
    return layer_charts(
        band(base, color=colour).encode(x, value_axis("low", title), alt.Y2("high:Q")),
        line(base, dots=0 if shown.dense else 30, color=colour).encode(x, y, tips),
        height=160,
    )


def draw_random_gaps(shown: ChartContext) -> alt.VConcatChart:
    """Draw heat maps of text minus random tokens, by layer and checkpoint: anisotropy and dimension (TwoNN).

    A dot marks a difference whose 95 % interval includes 0.
    """
    panels = [
        _gap(shown, "anisotropy", "anisotropy: text - random", False),
        _gap(shown, "id_twonn", "dimension (TwoNN): text - random", True),
    ]
    return alt.vconcat(*panels, spacing=14).resolve_scale(x="shared", color="independent")


def _gap(shown: ChartContext, column: str, title: str, labels: bool) -> alt.LayerChart:
    base, gap = base_chart("gaps", *HISTORY_CONTROLS), f"datum.{column}_gap"
    base = base.transform_calculate(gap=gap, gap_se=f"{gap}_se").transform_filter("datum.gap != null")
    most = shown.gap_limits[column]
    colour = alt.Color("gap:Q", scale=alt.Scale(domain=[-most, most], domainMid=0, clamp=True), title="difference")
    tips = tooltips("step", "layer", "gap", "gap_se")
    within_error = base.transform_filter("datum.gap_se != null && abs(datum.gap) < datum.t * datum.gap_se")
    marks = within_error.mark_point(size=10, filled=True, color="#444", opacity=1, aria=False)
    tiles = base.mark_rect(aria=False).encode(checkpoint_axis(labels), layer_axis(), colour, tips)
    return layer_charts(tiles, marks.encode(checkpoint_axis(labels), layer_axis()), height=190, title=title)
