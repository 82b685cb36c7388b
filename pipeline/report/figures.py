"""The paper's figures, drawn from a lake as SVG, PNG or PDF."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from pipeline import output_paths
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader
from pipeline.report import history_charts, overview_charts, theme
from pipeline.report.chart_data import build_chart_tables, load_chart_rows
from pipeline.report.chart_parts import (
    DIMENSION_TITLE,
    ChartContext,
    add_interval,
    band,
    base_chart,
    depth_axis,
    dimension_chart,
    dots,
    layer_charts,
    line,
    share_axis,
    step_axis,
    value_axis,
)
from pipeline.strict_model import suggest

FACET_COLUMNS = 3
PNG_SCALE = 3
"""PNG pixels per chart pixel: 300 dots per inch at the width of a text column."""


def dimension_over_training(shown: ChartContext) -> alt.LayerChart:
    """Dimension over training, mean over the blocks, of every model; a triangle marks the highest step."""
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
    """Anisotropy over depth at every checkpoint, one panel per model."""
    base = base_chart("layers", "text").transform_filter("datum.step != null && datum.block")
    lines = line(base, 1.5).encode(depth_axis(), share_axis(), history_charts.step_colour(shown), alt.Detail("step:N"))
    return _panels(lines)


def text_against_random(shown: ChartContext) -> alt.FacetChart:
    """Anisotropy over depth at the newest checkpoint, on text and on random tokens, one panel per model."""
    base = add_interval(history_charts.newest_on_every_text(), "anisotropy", "anisotropy_se")
    look, each = theme.input_encodings(shown.texts), alt.Detail("text:N")
    drawn = alt.layer(
        band(base).encode(depth_axis(), share_axis("low"), alt.Y2("high:Q"), look["color"], each),
        line(base).encode(depth_axis(), share_axis(), look["color"], look["strokeDash"], each),
        *dots(base, 30, depth_axis(), share_axis(), look["color"], look["shape"], each),
    )
    return _panels(drawn)


FIGURES: dict[str, Callable[[ChartContext], Any]] = {
    "anisotropy-depth": overview_charts.draw_profile,
    "anisotropy-training": profiles_over_training,
    "id-training": dimension_over_training,
    "random-tokens": text_against_random,
}


def draw_figure(reader: LakeReader, name: str, path: str | Path, models: str = "*") -> Path:
    """Draw a figure of FIGURES to a .svg, .png or .pdf file and return its path.

    A lake with several texts is drawn on the first that is not random tokens.

    Raises:
        UsageError: unknown figure, unsupported extension, path not writable, or no model in the lake matches.
    """
    if name not in FIGURES:
        near = suggest(name, list(FIGURES))
        raise UsageError(f"figure {name!r}", f"no such figure{near}", f"Use one of {', '.join(FIGURES)}")
    path = output_paths.require_writable_file("figure", path, tuple(_WRITERS))
    path.write_bytes(_WRITERS[path.suffix](build_figure_spec(reader, name, models)))
    return path


def build_figure_spec(reader: LakeReader, name: str, models: str = "*") -> dict[str, Any]:
    """Build the Vega-Lite spec of a figure, including its data."""
    tables = build_chart_tables(load_chart_rows(reader, models))
    shown = ChartContext.from_tables(tables)
    params = [{"name": control, "value": shown.default_choice(control)} for control in ("text", "estimator")]
    drawn = FIGURES[name](shown).to_dict()
    used = {table: frame.to_dicts() for table, frame in tables._asdict().items() if f"'name': '{table}'" in str(drawn)}
    config = theme.vega_config("light") | {"background": "white"}
    return {"params": params} | drawn | {"datasets": used, "config": config}


def _panels(chart: Any) -> alt.FacetChart:
    small = chart.properties(width=theme.PANEL_WIDTH * 1.2, height=170)
    return small.facet(alt.Facet("history:N", title=None), columns=FACET_COLUMNS)


_WRITERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    ".svg": lambda spec: vl_convert.vegalite_to_svg(spec).encode(),
    ".png": lambda spec: vl_convert.vegalite_to_png(spec, scale=PNG_SCALE),
    ".pdf": vl_convert.vegalite_to_pdf,
}
