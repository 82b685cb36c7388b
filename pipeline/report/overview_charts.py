"""Charts across histories: what the models of a lake have in common, and what tells encoders from decoders."""

import altair as alt

from pipeline.report import theme
from pipeline.report.chart_parts import (
    DIMENSION,
    MOST_NAMED,
    Shown,
    band,
    by_depth,
    depth,
    dots,
    ends,
    estimated,
    free,
    interval,
    layered,
    line,
    rows,
    share,
    step,
    tip,
)


def profile(shown: Shown) -> alt.LayerChart:
    """Anisotropy over relative depth at the newest checkpoint of every model."""
    base = rows("layers", "text").transform_filter("datum.newest && datum.block")
    base = interval(base, "anisotropy", "anisotropy_se")
    look, one = theme.by_kind(shown.kinds), alt.Detail("history:N")
    told = tip(
        "history", "kind", "step", "layer", "depth", "anisotropy", "anisotropy_se", "anisotropy_no_sink", "doubt"
    )
    parts = [
        band(base).encode(depth(), share("low"), alt.Y2("high:Q"), look["color"], one),
        line(base).encode(depth(), share(), one, look["color"], look["strokeDash"]),
        *dots(base, 40, depth(), share(), look["color"], look["shape"], one, told),
    ]
    return layered(*parts, *_named(shown, base, "depth", depth(), share()))


def growth(shown: Shown) -> alt.LayerChart:
    """Anisotropy over training of every model, the mean over its blocks; thin and faint without sink tokens."""
    base = interval(rows("steps", "text"), "anisotropy", "anisotropy_se")
    look, one = theme.by_kind(shown.kinds), alt.Detail("history:N")
    told = tip("history", "step", "anisotropy", "anisotropy_se", "anisotropy_no_sink")
    title = "anisotropy, mean over blocks"
    y = share(title=title)
    parts = [
        band(base).encode(step(shown), share("low", title), alt.Y2("high:Q"), look["color"], one),
        line(base, 1, opacity=0.6).encode(
            step(shown), share("anisotropy_no_sink", title), one, look["color"], look["strokeDash"]
        ),
        line(base, dots=0 if shown.dense else 26).encode(step(shown), y, one, told, look["color"], look["strokeDash"]),
    ]
    return layered(*parts, *_named(shown, base, "step", step(shown), y))


def small_multiples(shown: Shown) -> alt.FacetChart:
    """Dimension over training of each model, its landmark blocks one line each."""
    base = estimated("layers", "text").transform_filter("datum.landmark && datum.step != null")
    told = tip("history", "step", "layer", "dimension", "se")
    lines = line(base, 1.5, dots=0 if shown.dense else 12).encode(
        step(shown),
        free("dimension", DIMENSION),
        by_depth(),
        alt.StrokeDash("layer:O", legend=None),
        told,
    )
    facets = lines.properties(width=theme.SMALL, height=130).facet(alt.Facet("history:N", title=None), columns=3)
    return facets.resolve_scale(y="independent")


def _named(shown: Shown, base: alt.Chart, by: str, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    if len(shown.histories) > MOST_NAMED:
        return []
    return [ends(base, by, "history", "datum.history").encode(x, y)]
