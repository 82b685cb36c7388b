"""Every chart and figure, rendered without a browser."""

import copy
import json
import re

import altair as alt
import polars as pl
import polars.selectors as cs
import pytest
import vl_convert

from pipeline.analysis import compute_finding
from pipeline.errors import UsageError
from pipeline.report import FIGURES, draw_figure, history_charts, theme
from pipeline.report.chart_data import ESTIMATOR_LABELS, build_chart_tables, load_chart_rows
from pipeline.report.chart_parts import ChartContext
from pipeline.report.sections import HISTORY_SECTIONS, OVERVIEW_SECTIONS
from tests.support import finding_rows as findings

SECTIONS = {section.name: section for section in (*OVERVIEW_SECTIONS, *HISTORY_SECTIONS)}
LINES = r'<g class="mark-line role-mark[^>]*><path[^>]* d="([^"]*)"'
TILES = r'<g class="mark-rect role-mark[^>]*>(.*?)</g>'
MAGIC = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def made(reader):
    return build_chart_tables(load_chart_rows(reader, "*"))


def drawn(section, made, **choices):
    """Render a chart as SVG with these values of the controls."""
    spec = copy.deepcopy(section.build_spec(ChartContext.from_tables(made)))
    for param in spec["params"]:
        param["value"] = choices.get(param["name"], param["value"])
    spec["datasets"] = {name: table.to_dicts() for name, table in made._asdict().items()}
    return vl_convert.vegalite_to_svg(spec | {"config": theme.vega_config("light")})


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_every_spec_describes_itself_and_its_controls(section, made):
    spec = section.build_spec(ChartContext.from_tables(made))
    assert spec["description"].startswith(section.question)
    assert [param["name"] for param in spec["params"]] == list(section.controls)


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_every_spec_is_valid(section, made):
    alt.Chart.from_dict(section.build_spec(ChartContext.from_tables(made)))


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_every_control_of_a_chart_changes_it(section, made):
    first = drawn(section, made)
    others = {"history": "lab/big", "text": "random-uniform", "estimator": "id_mle", "colours": "0 to 1"}
    for control in section.controls:
        if (control, section.table) != ("text", "gaps"):  # random tokens have no gap to themselves
            assert drawn(section, made, **{control: others[control]}) != first, control


@pytest.mark.parametrize("estimator", ESTIMATOR_LABELS)
def test_dimension_draws_by_every_estimator(made, estimator):
    svg = drawn(SECTIONS["dimension"], made, estimator=estimator)
    assert svg.count("layer 4") == 1
    assert history_charts.PEAK_COLOUR in svg


def test_a_tile_per_layer_and_checkpoint(made):
    svg = drawn(SECTIONS["map"], made, history="lab/big")
    panels = re.findall(TILES, svg, re.DOTALL)
    assert sum(panel.count("<path") for panel in panels) == 2 * 6 * 6


def test_the_colours_of_a_map_span_its_values_or_0_to_1(made):
    ends = [float(made.layers["anisotropy"].min()), float(made.layers["anisotropy"].max())]
    assert 0.05 < ends[1] < 0.95, "the test needs a map that does not fill 0 to 1"
    for choice, last in (("range of the map", ends[1]), ("0 to 1", 1.0)):
        legend = re.findall(
            r"mark-group role-legend.*?</g></g></g>", drawn(SECTIONS["map"], made, colours=choice), re.DOTALL
        )
        assert max(float(number) for number in re.findall(r">([0-9.]+)</text>", legend[0])) <= last + 0.05


def test_a_dot_marks_significant_interior_maxima_only(made):
    """The encoder's profile is flat; with errors as large as the dome the decoder has no dot either."""
    dots = lambda tables, history: drawn(SECTIONS["map"], tables, history=history).count('stroke="black"')  # noqa: E731
    unsure = made.layers.with_columns(anisotropy_se=pl.lit(0.5), anisotropy_no_sink_se=pl.lit(0.5))
    assert dots(made, "lab/big") > 0
    assert dots(made, "lab/bert") == 0
    assert dots(made._replace(layers=unsure), "lab/big") == 0


def test_an_unknown_number_is_a_gap_and_no_zero(made):
    layers = made.layers.with_columns(
        anisotropy=made.layers["anisotropy"].scatter(made.layers["step"].is_in([8]).arg_true(), None)
    )
    svg = drawn(SECTIONS["map"], made._replace(layers=layers), history="lab/big")
    tiles = [panel.count("<path") for panel in re.findall(TILES, svg, re.DOTALL)]
    assert tiles == [6 * 5, 6 * 6]


def test_a_line_breaks_where_a_number_is_unknown(made):
    broken = made.steps.with_columns(
        id_twonn=made.steps["id_twonn"].scatter(made.steps["step"].is_in([8]).arg_true(), None)
    )
    paths = [
        re.findall(LINES, drawn(SECTIONS["loss"], made._replace(steps=steps), history="lab/big"))[0]
        for steps in (made.steps, broken)
    ]
    assert [path.count("M") for path in paths] == [1, 2]


DRAWN = [name for name in FIGURES if not name.startswith("population")]
"""Figures of this lake; those of a population are drawn in tests/analysis/test_comparison.py."""


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".svg") for name in DRAWN), ("id-training", ".png"), ("random-tokens", ".pdf")]
)
def test_figures(reader, tmp_path, name, suffix):
    path = draw_figure(reader, name, tmp_path / f"f{suffix}")
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert path.stat().st_size > 3000


def test_a_figure_that_does_not_exist_names_those_that_do(reader, tmp_path):
    with pytest.raises(UsageError, match=r"did you mean 'id-training'.*\n.*anisotropy-depth"):
        draw_figure(reader, "id-trainig", tmp_path / "f.svg")
    with pytest.raises(UsageError, match=r"(?s)f\.gif.*\.svg.*\.png.*\.pdf"):
        draw_figure(reader, "id-training", tmp_path / "f.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_every_number_that_a_chart_draws_or_tells_is_in_its_table_or_in_a_finding(section, made):
    """Such a number can be queried, by the section's SQL or by the command of its finding."""
    spec = json.dumps(section.build_spec(ChartContext.from_tables(made)))
    frames = [getattr(made, name) for name in (section.table, *section.other_tables)]
    numbers = {name for frame in frames for name in frame.select(cs.numeric()).columns} - {"t"}
    shown = {name for name in numbers if re.search(rf'"field": "{name}"|datum\.{name}\b', spec)}
    if "estimator" in section.controls:
        shown |= set(ESTIMATOR_LABELS) | {f"{name}_se" for name in ESTIMATOR_LABELS}
    found = {name for finding in section.findings for name in compute_finding(finding, findings.frame([])).columns}
    assert shown
    assert shown <= {*section.columns, *found}
