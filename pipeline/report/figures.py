"""The paper's figures, drawn from a lake as SVG, PNG or PDF, each with a caption beside it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import vl_convert

from pipeline import output_paths
from pipeline.analysis.frames import select_newest_rows
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader
from pipeline.report import figure_charts, overview_charts, similarity_charts, theme
from pipeline.report.chart_parts import DEPTH_TITLE, ChartContext
from pipeline.report.figure_caption import write_caption
from pipeline.report.figure_data import FigureData, FigureOptions, load_figure_data
from pipeline.report.similarity_tables import COMPARED
from pipeline.strict_model import suggest

POINTS_PER_INCH, PNG_DOTS_PER_INCH = 72, 300
AXIS_ROOM, MIN_PANEL, FITTING_ROUNDS = 60, 40, 3
"""First estimate of the width beside the panels, in points; smallest width of a panel, in points; number of rounds.

Each round draws the figure and corrects the width of its panels, until the figure has the requested width.
"""
LEGEND_ENTRY = 150
"""Width in points that each name in a legend gets."""
SHORT_TITLE_BELOW = 200
"""Width of a panel in points below which its axis of depth has a short title."""


NEEDS_RECORDS = (
    "Add `similarity: {}` to the sweep and run it to make similarity records; over training, two checkpoints need them"
)


class FigureSpec(NamedTuple):
    """Description of one figure in FIGURES."""

    draw: Callable[[ChartContext], Any]
    title: str
    table: str
    """Name of the table that must have rows for the figure to be drawn."""
    over_training: bool = False
    every_text: bool = False
    """True if the figure draws all texts; otherwise it draws the first text that is not random tokens."""
    errors: str | None = None
    """Sentence on errors in the caption of a figure of similarity records; None for a figure without such records."""
    needs: str = "Draw another figure, or run a sweep that measures what this figure shows"
    """Remedy that the error message names if the table is empty."""


FIGURES: dict[str, FigureSpec] = {
    "anisotropy-depth": FigureSpec(overview_charts.draw_profile, "Anisotropy over depth", "layers"),
    "anisotropy-sinks": FigureSpec(
        figure_charts.anisotropy_and_sinks, "Anisotropy with and without sink tokens", "sinks"
    ),
    "anisotropy-training": FigureSpec(
        figure_charts.profiles_over_training, "Anisotropy over depth, by training step", "steps", True
    ),
    "profile-ridge": FigureSpec(figure_charts.profile_ridge, "Profile of anisotropy over training", "steps", True),
    "id-depth": FigureSpec(overview_charts.draw_dimension_over_depth, "Intrinsic dimension over depth", "layers"),
    "id-training": FigureSpec(
        figure_charts.dimension_over_training, "Intrinsic dimension over training", "steps", True
    ),
    "spectrum": FigureSpec(figure_charts.spectrum, "Spectrum of the covariance, by block", "spectrum"),
    "linearity": FigureSpec(figure_charts.linearity, "Linearity of the blocks over depth", "linearity"),
    "population-depth": FigureSpec(
        figure_charts.population_over_depth,
        "A run against the runs of its size, over depth",
        "population",
        needs="Write --run MODEL",
    ),
    "population-training": FigureSpec(
        figure_charts.population_over_training,
        "A run against the runs of its size, over training",
        "population_steps",
        True,
        needs="Write --run MODEL",
    ),
    "similarity-layers": FigureSpec(
        similarity_charts.layer_similarity,
        "Similarity of the layers: CKA, and overlap of 4 neighbours",
        "similarity_layers",
        errors="Errors: not drawn",
        needs=NEEDS_RECORDS,
    ),
    "similarity-steps": FigureSpec(
        similarity_charts.step_similarity,
        "Similarity (CKA) of the checkpoints with each other",
        "similarity_steps",
        True,
        errors="Errors: not drawn",
        needs=NEEDS_RECORDS,
    ),
    "settling": FigureSpec(
        similarity_charts.settling,
        "Similarity of each block to its last state",
        "settling",
        True,
        errors="Error bands: 95 % intervals, jackknife over groups of contexts",
        needs=NEEDS_RECORDS,
    ),
    "random-tokens": FigureSpec(
        figure_charts.text_against_random, "Text against random tokens", "text_and_random", every_text=True
    ),
}


def draw_figure(reader: LakeReader, name: str, path: str | Path, options: FigureOptions | None = None) -> Path:
    """Draw a figure of FIGURES to a .svg, .png or .pdf file, write its caption beside it, and return its path.

    If the lake has several texts, most figures draw the first one that is not random tokens.

    Raises:
        UsageError: the figure is unknown or the lake has no data for it; the path has another extension or cannot be
            written; or an option is unknown, matches nothing in the lake, or does not fit the figure.
    """
    _require_figure(name)
    path, chosen = output_paths.require_writable_file("figure", path, tuple(_WRITERS)), options or FigureOptions()
    _draw(reader, name, path, chosen, load_figure_data(reader, chosen))
    return path


def draw_all_figures(
    reader: LakeReader, folder: str | Path, options: FigureOptions | None = None, suffix: str = ".svg"
) -> Iterator[tuple[str, Path | None]]:
    """Draw every figure for which the lake has data into a folder; yield each name with the path of its file.

    The path is None for a figure without data, and for a figure over training if the options choose a step.
    """
    folder, chosen = output_paths.require_writable_folder("figure all", folder), options or FigureOptions()
    folder.mkdir(exist_ok=True)
    data = load_figure_data(reader, chosen)
    for name, figure in FIGURES.items():
        path = folder / f"{name}{suffix}"
        drawn = not data.tables[figure.table].is_empty() and not (figure.over_training and chosen.step is not None)
        if drawn:
            _draw(reader, name, path, chosen, data)
        yield name, path if drawn else None


def build_figure_spec(
    reader: LakeReader, name: str, options: FigureOptions | None = None, data: FigureData | None = None
) -> dict[str, Any]:
    """Build the Vega-Lite spec of a figure, including its data; `data` is loaded from the lake if it is None.

    Raises:
        UsageError: the lake has no data for the figure, or an option does not fit the figure or the lake.
    """
    chosen, figure = options or FigureOptions(), FIGURES[name]
    data = data or load_figure_data(reader, chosen)
    if figure.over_training and chosen.step is not None:
        raise UsageError(f"figure {name} --step", "the figure shows all steps of training", "Leave --step out")
    if data.tables[figure.table].is_empty():
        raise UsageError(f"figure {name}", "the lake has no data for it", figure.needs)
    shown = ChartContext.from_tables(data.charts)
    params = [
        {"name": "text", "value": shown.default_choice("text")},
        {"name": "estimator", "value": chosen.estimator},
    ]
    drawn = figure.draw(shown).to_dict(validate=False)
    used = {table: frame.to_dicts() for table, frame in data.tables.items() if f"'name': '{table}'" in str(drawn)}
    title = figure.title if chosen.title is None else chosen.title
    titled = {"title": {"text": title, "anchor": "start"}} if title else {}
    spec = {"params": params} | drawn | titled | {"datasets": used, "config": theme.print_config()}
    _fit(spec, chosen, len(shown.histories))
    return spec


def _require_figure(name: str) -> None:
    if name not in FIGURES:
        near = suggest(name, [*FIGURES, "all"])
        raise UsageError(f"figure {name!r}", f"no such figure{near}", f"Use one of {', '.join(FIGURES)}, all")


def _draw(reader: LakeReader, name: str, path: Path, options: FigureOptions, data: FigureData) -> None:
    path.write_bytes(_WRITERS[path.suffix](build_figure_spec(reader, name, options, data)))
    figure, rows = FIGURES[name], _select_drawn_rows(name, data)
    if figure.errors is None:
        write_caption(path, figure.title, reader.uri, options, rows)
        return
    drawn = _select_drawn(data, data.tables[figure.table])
    on = [column for column in ("history", "step") if column in drawn.columns]
    rows = rows.join(drawn.select(on).unique(), on=on, how="semi")
    write_caption(path, figure.title, reader.uri, options, rows, (drawn[COMPARED], figure.errors))


def _select_drawn(data: FigureData, table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(text=ChartContext.from_tables(data.charts).default_choice("text"))


def _select_drawn_rows(name: str, data: FigureData) -> pl.DataFrame:
    """Select the rows that the figure draws.

    They have one text, unless the figure draws every text, and the newest checkpoints, unless it is over training.
    """
    rows = data.rows if FIGURES[name].over_training else select_newest_rows(data.rows)
    text = ChartContext.from_tables(data.charts).default_choice("text")
    return rows if FIGURES[name].every_text else rows.filter(text=text)


def _fit(spec: dict[str, Any], options: FigureOptions, panels: int) -> None:
    """Set the width and height of the panels so that the whole figure has the requested width."""
    columns = min(panels, spec.get("columns") or panels) if "facet" in spec else 1
    parts = spec.get("vconcat") or [spec.get("spec", spec)]
    width = (options.width - AXIS_ROOM) / columns
    _narrow_legends(spec, max(options.width // LEGEND_ENTRY, 1))
    for _ in range(FITTING_ROUNDS):
        if width < SHORT_TITLE_BELOW:
            _shorten_titles(spec)
        for part in parts:
            part["width"] = round(width)
            if options.height:
                part["height"] = round(options.height / len(parts))
        missing = options.width - _drawn_width(spec)
        if abs(missing) <= columns:
            return
        width = max(width + missing / columns, MIN_PANEL)


def _drawn_width(spec: dict[str, Any]) -> float:
    found = re.search(r'width="([\d.]+)"', vl_convert.vegalite_to_svg(spec))
    assert found, "an SVG states its width"
    return float(found[1])


def _objects(part: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object inside a spec, the outer ones first."""
    if isinstance(part, dict):
        yield part
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for each in inner:
        yield from _objects(each)


def _narrow_legends(spec: dict[str, Any], columns: int) -> None:
    """Limit each legend that states a number of columns to at most `columns` names per line."""
    for part in _objects(spec):
        if isinstance(legend := part.get("legend"), dict) and "columns" in legend:
            legend["columns"] = min(legend["columns"], columns)


def _shorten_titles(spec: dict[str, Any]) -> None:
    """Shorten the titles of depth axes to `depth`, since the long titles overlap in narrow panels."""
    for part in _objects(spec):
        if part.get("title") == DEPTH_TITLE:
            part["title"] = "depth"


def _to_svg(spec: dict[str, Any]) -> bytes:
    return vl_convert.vegalite_to_svg(spec).encode()


_WRITERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    ".svg": _to_svg,
    ".png": lambda spec: vl_convert.vegalite_to_png(spec, scale=PNG_DOTS_PER_INCH / POINTS_PER_INCH),
    ".pdf": vl_convert.vegalite_to_pdf,
}
