"""Style of all charts: colours, dashes and shapes by kind, colour ramps, light and dark theme."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

WIDTH = 640
"""Default width of a chart in pixels; page.js fits charts to the window."""
PANEL_WIDTH = 190
"""Width in pixels of one panel of small multiples."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


class SeriesStyle(NamedTuple):
    """Colour, dash and shape of a series; contrast at least 3:1 on both backgrounds (palette of Okabe and Ito)."""

    colour: str
    dash: tuple[int, int]
    shape: str


KIND_STYLES = {
    "decoder": SeriesStyle("#0072b2", (1, 0), "circle"),
    "encoder": SeriesStyle("#d55e00", (6, 3), "square"),
    "encdec-encoder": SeriesStyle("#c0699b", (2, 2), "diamond"),
    "encdec-decoder": SeriesStyle("#009e73", (8, 2), "triangle-up"),
}
INPUT_STYLES = {
    "text": SeriesStyle("#0072b2", (1, 0), "circle"),
    "random tokens": SeriesStyle("#d55e00", (6, 3), "square"),
}
TOKEN_STYLES = {
    "all tokens": SeriesStyle("#0072b2", (1, 0), "circle"),
    "without sinks": SeriesStyle("#d55e00", (6, 3), "square"),
}
PRINT_FONT = 8
"""Smallest font of a printed figure, in points."""

TEXT_COLOURS = {"light": "#1c2127", "dark": "#e4e8ee"}
MUTED_COLOURS = {"light": "#59626e", "dark": "#a3adba"}
GRID_COLOURS = {"light": "#dfe3e8", "dark": "#343b45"}
VIRIDIS_EXTENTS = {"light": [0.0, 0.85], "dark": [0.25, 1.0]}
"""Range of viridis that is visible on the background."""


def vega_config(theme: str) -> dict[str, Any]:
    """Vega-Lite config of the theme light or dark; the chart background is transparent."""
    colour, muted = TEXT_COLOURS[theme], MUTED_COLOURS[theme]
    text = {"labelColor": muted, "titleColor": colour, "labelFontSize": 11, "titleFontSize": 12}
    quiet = {"gridColor": GRID_COLOURS[theme], "domainColor": muted, "tickColor": muted}
    marks = {"symbolStrokeWidth": 2, "symbolOpacity": 1, "symbolSize": 90, "gradientLength": 160}
    return {
        "font": FONT,
        "background": None,
        "view": {"stroke": None},
        "axis": text | quiet | {"titleFontWeight": 500, "titlePadding": 8, "labelOverlap": "parity"},
        "legend": text | {"titleFontWeight": 500, "orient": "top"} | marks,
        "header": text | {"labelFontSize": 12, "labelFontWeight": 600, "labelColor": colour},
        "title": {"color": colour, "fontSize": 12, "fontWeight": 600, "anchor": "start"},
        "text": {"color": colour, "fontSize": 11},
        "rule": {"color": muted},
        "range": {
            "ramp": {"scheme": "viridis", "extent": VIRIDIS_EXTENTS[theme]},
            "heatmap": {"scheme": "cividis"},
            "diverging": {"scheme": "purpleorange"},
        },
    }


def print_config() -> dict[str, Any]:
    """Vega-Lite config of a printed figure: white, with fonts of 8 points or more where a chart pixel is a point."""
    config: dict[str, Any] = {**vega_config("light"), "background": "white"}
    small = {"labelFontSize": PRINT_FONT, "titleFontSize": PRINT_FONT + 1}
    for part in ("axis", "legend", "header"):
        config[part] = config[part] | small
    config["text"] = config["text"] | {"fontSize": PRINT_FONT}
    config["title"] = config["title"] | {"fontSize": PRINT_FONT + 2}
    return config


def token_encodings() -> dict[str, Any]:
    """Encodings of colour, dash and shape for all tokens and for those that are not sinks."""
    return _by("tokens", TOKEN_STYLES)


def kind_encodings(kinds: Sequence[str]) -> dict[str, Any]:
    """Encodings of colour, dash and shape for these kinds."""
    return _by("kind", {kind: look for kind, look in KIND_STYLES.items() if kind in kinds})


def input_encodings() -> dict[str, Any]:
    """Encodings of colour, dash and shape for text and random tokens."""
    return _by("input", INPUT_STYLES)


def _by(field: str, looks: dict[str, SeriesStyle]) -> dict[str, Any]:
    def scale(values: list[Any]) -> alt.Scale:
        return alt.Scale(domain=list(looks), range=values)

    colours, dashes, shapes = (list(part) for part in zip(*looks.values(), strict=True))
    return {
        "color": alt.Color(f"{field}:N", scale=scale(colours), title=None, legend=alt.Legend(symbolOpacity=1)),
        "strokeDash": alt.StrokeDash(f"{field}:N", scale=scale([list(dash) for dash in dashes]), title=None),
        "shape": alt.Shape(f"{field}:N", scale=scale(shapes), title=None),
    }
