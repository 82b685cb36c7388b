"""Charts of one history: layer by checkpoint, over training, and against random tokens."""

import altair as alt

from pipeline.analysis.phases import EXPAND_COMPRESS
from pipeline.report.chart_parts import (
    ANISOTROPY,
    DIMENSION,
    SHORT,
    STEP,
    Shown,
    band,
    by_depth,
    checkpoints,
    depth,
    dots,
    ends,
    estimated,
    free,
    interval,
    layered,
    layers,
    line,
    rows,
    share,
    step,
    ticks,
    tip,
)

BY = ("history", "text")
UPPER, LOWER = "#0072b2", "#d55e00"
PEAK, PROVEN = "#c0392b", f"datum.verdict == '{EXPAND_COMPRESS}'"


def heat_map(shown: Shown) -> alt.VConcatChart:
    """Anisotropy, layer by checkpoint, with and without sink tokens; a dot on each checkpoint's highest block."""
    panels = [_map(shown, "anisotropy", "all tokens", False)]
    panels += [_map(shown, "anisotropy_no_sink", "without sink tokens", True)]
    return alt.vconcat(*panels, spacing=14).resolve_scale(x="shared")


def _map(shown: Shown, column: str, title: str, labels: bool) -> alt.LayerChart:
    base = rows("layers", *BY).transform_filter(f"datum.step != null && datum.{column} != null")
    told = tip("step", "layer", "state", column, "anisotropy_se", "id_twonn", "id_twonn_se", "loss", "doubt")
    colour = alt.Color(f"{column}:Q", scale=alt.Scale(domain=[0, 1]), title=ANISOTROPY)
    highest = base.transform_filter("datum.block")
    highest = highest.transform_joinaggregate(top=f"max({column})", groupby=["step"])
    marks = highest.transform_filter(f"datum.{column} == datum.top").mark_point(
        size=6 if shown.dense else 28, color="white", stroke="black", strokeWidth=0.5, filled=True, aria=False
    )
    tiles = base.mark_rect(aria=False).encode(checkpoints(labels), layers(), colour, told)
    return layered(tiles, marks.encode(checkpoints(labels), layers()), height=190, title=title)


def profiles(shown: Shown) -> alt.LayerChart:
    """Anisotropy over depth at every checkpoint, coloured by step; first and last named, the last one bold."""
    base = rows("layers", *BY).transform_filter("datum.step != null && datum.block")
    colour = by_step(shown)
    told = tip("step", "layer", "depth", "anisotropy", "anisotropy_se")
    last = base.transform_filter("datum.newest")
    first = base.transform_joinaggregate(begin="min(step)").transform_filter("datum.step == datum.begin")
    words = [ends(part, "depth", "history", "'step ' + datum.step").encode(depth(), share()) for part in (first, last)]
    return layered(
        line(base, 1.3).encode(depth(), share(), colour, told, detail="step:N"),
        line(last, 3, dots=40).encode(depth(), share(), colour, told),
        *words,
    )


def by_step(shown: Shown) -> alt.Color:
    legend = alt.Legend(type="gradient", values=ticks(shown), labelExpr=SHORT)
    return alt.Color("step:Q", scale=alt.Scale(type="symlog"), title=STEP, legend=legend)


def dimension(shown: Shown) -> alt.LayerChart:
    """Dimension over training by block; landmarks bold with their 95 % band, a triangle at each one's peak."""
    base = estimated("layers", *BY).transform_filter("datum.step != null && datum.block")
    bold = base.transform_filter("datum.landmark")
    x, y, each = step(shown), free("dimension", DIMENSION), alt.Detail("layer:N")
    told = tip("step", "layer", "dimension", "se", "loss", "doubt")
    return layered(
        line(base, 1, opacity=0.35).encode(x, y, by_depth(), each),
        band(bold).encode(x, free("low", DIMENSION), alt.Y2("high:Q"), by_depth(), each),
        line(bold).encode(x, y, by_depth(), alt.StrokeDash("layer:O", legend=None)),
        *dots(bold, 8 if shown.dense else 20, x, y, by_depth(), told),
        *_peaks(shown),
        ends(bold, "step", "layer", "'layer ' + datum.layer").encode(x, y),
        height=380,
    )


def _peaks(shown: Shown) -> list[alt.Chart]:
    """Triangles: filled and with the interval of their step where this estimator proves rise and fall, else hollow."""
    base = rows("peaks", *BY, "estimator").transform_filter("datum.landmark")
    told = tip("layer", "verdict", "peak_step", "peak_step_low", "peak_step_high", "peak_value")
    proven = alt.condition(PROVEN, alt.value(1), alt.value(0))
    marks = base.mark_point(shape="triangle-down", size=80, yOffset=-9, fill=PEAK, stroke=PEAK, opacity=1, aria=False)
    y = free("peak_value", DIMENSION)
    return [
        base.transform_filter(PROVEN)
        .mark_rule(color=PEAK, aria=False)
        .encode(step(shown, "peak_step_low"), y, x2="peak_step_high:Q"),
        marks.encode(step(shown, "peak_step"), y, told, fillOpacity=proven),
    ]


def loss(shown: Shown) -> alt.VConcatChart:
    """Dimension, the mean over the blocks, above the loss, on one axis of steps."""
    upper = estimated("steps", *BY)
    lower = interval(rows("steps", *BY).transform_filter("datum.loss != null"), "loss", "loss_se")
    panels = [
        _over_steps(shown, upper, "dimension", f"{DIMENSION}, mean", UPPER, False),
        _over_steps(shown, lower, "loss", "loss (nats per token)", LOWER, True),
    ]
    return alt.vconcat(*panels, spacing=10).resolve_scale(x="shared")


def _over_steps(shown: Shown, base: alt.Chart, column: str, title: str, colour: str, labels: bool) -> alt.LayerChart:
    x, y = step(shown, labels=labels), free(column, title)
    told = tip("step", column, "low", "high")
    return layered(
        band(base, color=colour).encode(x, free("low", title), alt.Y2("high:Q")),
        line(base, dots=0 if shown.dense else 30, color=colour).encode(x, y, told),
        height=160,
    )


def gaps(shown: Shown) -> alt.VConcatChart:
    """Text minus random tokens, layer by checkpoint; a dot where the difference may be nothing."""
    panels = [
        _gap(shown, "anisotropy", "anisotropy: text - random", False),
        _gap(shown, "id_twonn", "dimension (TwoNN): text - random", True),
    ]
    return alt.vconcat(*panels, spacing=14).resolve_scale(x="shared", color="independent")


def _gap(shown: Shown, column: str, title: str, labels: bool) -> alt.LayerChart:
    base = rows("gaps", *BY).transform_calculate(gap=f"datum.{column}_gap", gap_se=f"datum.{column}_gap_se")
    base = base.transform_filter("datum.gap != null")
    most = shown.widest[column]
    colour = alt.Color("gap:Q", scale=alt.Scale(domain=[-most, most], domainMid=0, clamp=True), title="difference")
    told = tip("step", "layer", "gap", "gap_se")
    unsure = base.transform_filter("datum.gap_se != null && abs(datum.gap) < datum.t * datum.gap_se")
    marks = unsure.mark_point(size=10, filled=True, color="#444", opacity=1, aria=False)
    tiles = base.mark_rect(aria=False).encode(checkpoints(labels), layers(), colour, told)
    return layered(tiles, marks.encode(checkpoints(labels), layers()), height=190, title=title)
