"""Style of all charts: a colour per model, dash and shape by kind, colour ramps, light and dark theme."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

WIDTH = 640
"""Default width of a chart in pixels; page.js fits charts to the window."""
PANEL_WIDTH = 190
"""Width in pixels of one panel of small multiples."""
LEGEND_GREY = "#808080"
"""Colour of the symbols in a legend of shapes and dashes; visible on the light and the dark background."""
LEGEND_COLUMNS = 4
"""Names per line of a legend above a chart of full width; page.js takes fewer in a narrow window."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c0699b", "#8a6d00", "#7a5cc2", "#2a8ca3", "#a3493f")
"""Colours of series, after Okabe and Ito. The ninth series has the first colour again.

The contrast of each colour is at least 3:1 on the light and on the dark background.
"""


class SeriesStyle(NamedTuple):
    """Dash pattern of the lines of a series (lengths of dash and gap in pixels) and shape of its points."""

    dash: tuple[int, int]
    shape: str


KIND_STYLES = {
    "decoder": SeriesStyle((1, 0), "circle"),
    "encoder": SeriesStyle((6, 3), "square"),
    "encdec-encoder": SeriesStyle((2, 2), "diamond"),
    "encdec-decoder": SeriesStyle((8, 2), "triangle-up"),
}
INPUT_STYLES = {"text": SeriesStyle((1, 0), "circle"), "random tokens": SeriesStyle((6, 3), "square")}
TOKEN_STYLES = {"all tokens": SeriesStyle((1, 0), "circle"), "without sinks": SeriesStyle((6, 3), "square")}
PRINT_FONT = 8
"""Smallest font of a printed figure, in points."""

TEXT_COLOURS = {"light": "#1c2127", "dark": "#e4e8ee"}
MUTED_COLOURS = {"light": "#59626e", "dark": "#a3adba"}
GRID_COLOURS = {"light": "#dfe3e8", "dark": "#343b45"}
VIRIDIS_EXTENTS = {"light": [0.0, 0.85], "dark": [0.25, 1.0]}
"""Part of the colour map viridis, from 0 to 1, that is visible on the background of each theme."""


def vega_config(theme: str) -> dict[str, Any]:
    """Return the Vega-Lite config of the theme `light` or `dark`; the background of charts is transparent."""
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


def model_encodings(histories: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    """Return encodings by channel: colour shows the history, dash and shape show the kind."""
    looks = {kind: look for kind, look in KIND_STYLES.items() if kind in kinds}
    return {"color": colour_encoding("history", histories)} | _dash_and_shape("kind", looks)


def print_config() -> dict[str, Any]:
    """Return the Vega-Lite config of a printed figure: a white background, and fonts of at least 8 points.

    A pixel of the chart counts as one point.
    """
    config: dict[str, Any] = {**vega_config("light"), "background": "white"}
    small = {"labelFontSize": PRINT_FONT, "titleFontSize": PRINT_FONT + 1}
    for part in ("axis", "legend", "header"):
        config[part] = config[part] | small
    config["text"] = config["text"] | {"fontSize": PRINT_FONT}
    config["title"] = config["title"] | {"fontSize": PRINT_FONT + 2}
    return config


def token_encodings() -> dict[str, Any]:
    """Return encodings by channel: colour, dash and shape show whether sink tokens are included."""
    return {"color": colour_encoding("tokens", list(TOKEN_STYLES))} | _dash_and_shape("tokens", TOKEN_STYLES)


def input_encodings(texts: Sequence[str]) -> dict[str, Any]:
    """Return encodings by channel: colour shows the text, dash and shape show whether it is text or random tokens."""
    return {"color": colour_encoding("text", texts)} | _dash_and_shape("input", INPUT_STYLES)


def colour_encoding(field: str, values: Sequence[str]) -> alt.Color:
    """Encode a nominal field by colour, in the order of `values`. A single value has no legend."""
    scale = alt.Scale(domain=list(values), range=[COLOURS[i % len(COLOURS)] for i in range(len(values))])
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=3, columns=LEGEND_COLUMNS, labelLimit=220)
    return alt.Color(f"{field}:N", scale=scale, title=None, legend=legend if len(values) > 1 else None)


def _dash_and_shape(field: str, looks: dict[str, SeriesStyle]) -> dict[str, Any]:
    dashes, shapes = (list(part) for part in zip(*looks.values(), strict=True))
    # This legend is below the chart: beside the legend of the colours, it would widen narrow charts.
    style = alt.Legend(orient="bottom", symbolFillColor=LEGEND_GREY, symbolStrokeColor=LEGEND_GREY)
    legend = style if len(looks) > 1 else None
    dash = alt.Scale(domain=list(looks), range=[list(each) for each in dashes])
    shape = alt.Scale(domain=list(looks), range=shapes)
    return {
        "strokeDash": alt.StrokeDash(f"{field}:N", scale=dash, title=None, legend=legend),
        "shape": alt.Shape(f"{field}:N", scale=shape, title=None, legend=legend),
    }
