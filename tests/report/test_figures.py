"""Figures for a paper: size, fonts, selection, captions, and which are drawn."""

import json
import re

import pytest

from pipeline.errors import UsageError
from pipeline.report import FIGURES, FigureOptions, build_figure_spec, draw_all_figures, draw_figure
from pipeline.report.figure_data import load_figure_data
from tests.support import report_rows

FONT_SIZE = re.compile(r'font-size="([\d.]+)px"')


@pytest.mark.parametrize("name", [name for name in FIGURES if not name.startswith("population")])
@pytest.mark.parametrize("width", [240, 480])
def test_a_figure_is_as_wide_as_asked_with_fonts_of_8_points(reader, tmp_path, name, width):
    svg = draw_figure(reader, name, tmp_path / "f.svg", FigureOptions(width=width, title="")).read_text()
    sizes = [float(size) for size in FONT_SIZE.findall(svg)]
    assert min(sizes) >= 8
    assert svg.count("<text") > 4, "text stays text"
    (found,) = re.findall(r'^<svg [^>]*?width="([\d.]+)"', svg)
    assert abs(float(found) - width) <= 16, "names of panels may be wider than narrow panels"


def test_a_title_is_given_left_out_or_the_figures_own(reader):
    for title, shown in ((None, FIGURES["id-depth"].title), ("Mine", "Mine"), ("", None)):
        spec = build_figure_spec(reader, "id-depth", FigureOptions(title=title))
        assert spec.get("title", {}).get("text") == shown


def test_models_corpus_step_and_estimator_select(reader):
    options = FigureOptions(models="*big", corpus="random-*", step=64, estimator="id_mle")
    rows = load_figure_data(reader, options).rows
    assert set(rows["model"]) == {"lab/big"}
    assert set(rows["corpus"]) == {"random-uniform"}
    assert set(rows["step"]) == {64}
    params = {each["name"]: each["value"] for each in build_figure_spec(reader, "id-depth", options)["params"]}
    assert params == {"text": "random-uniform", "estimator": "id_mle"}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (FigureOptions(step=65), "the steps are 0, 1, 8, 64, 512, 4096"),
        (FigureOptions(corpus="prose"), "which has random-uniform, text:prose"),
        (FigureOptions(estimator="id_two"), "did you mean 'id_twonn'"),
    ],
)
def test_a_wrong_selection_says_what_there_is(reader, options, found):
    with pytest.raises(UsageError, match=found):
        load_figure_data(reader, options)
    with pytest.raises(UsageError, match="all steps of training"):
        build_figure_spec(reader, "id-training", FigureOptions(step=64))


def test_the_caption_says_what_is_drawn_and_its_query_returns_it(reader, uri, tmp_path, shapelake):
    draw_figure(reader, "id-depth", tmp_path / "f.svg", FigureOptions(models="*big"))
    lines = dict(line[2:].split(": ", 1) for line in (tmp_path / "f.caption.md").read_text().splitlines()[2:])
    assert lines["Models"] == "lab/big"
    assert lines["Steps"] == "4,096 to 4,096, 1 checkpoints"
    assert (lines["Corpus"], lines["Recipe"]) == ("text:prose", "quick@1")
    assert "id_twonn" in lines["Estimator of dimension, where shown"]
    assert lines["N"] == "4,096 to 4,096 points per layer"
    assert lines["Error bands"].startswith("95 % intervals")
    assert lines["Version"].startswith("shapelake ")
    sql = re.findall(r"SELECT .* layer", lines["Query"].replace("'\"'\"'", "'"))[0]
    code, out, _ = shapelake("query", sql, "--lake", uri, "--json")
    assert code == 0
    assert [(row["step"], row["layer"]) for row in json.loads(out)] == [(4096, layer) for layer in range(6)]


def test_all_figures_with_data_are_drawn(reader, tmp_path, shapelake, uri):
    drawn = dict(draw_all_figures(reader, tmp_path / "all"))
    assert set(drawn) == set(FIGURES)
    with_data = {name for name, path in drawn.items() if path}
    assert set(FIGURES) - with_data == {"population-depth", "population-training"}, "these need --run"
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        f"{name}{end}" for name in with_data for end in (".svg", ".caption.md")
    }
    code, out, _ = shapelake("figure", "all", tmp_path / "text", "--corpus", "text:*", "--lake", uri)
    assert (code, "random-tokens: no data in this lake" in out) == (0, True)


def test_a_lake_with_one_checkpoint_has_no_figure_over_training_of_lone_rows(tmp_path):
    from pipeline.lake import open_lake

    lake = open_lake(report_rows.lake(tmp_path / "lake", {"lab/one": "decoder"}, (None,)))
    drawn = dict(draw_all_figures(lake, tmp_path / "figures"))
    assert {name for name, path in drawn.items() if path is None} >= {"id-training", "profile-ridge", "settling"}
    assert drawn["id-depth"] is not None


def test_wrong_use_of_the_command(uri, tmp_path, shapelake):
    for words in (("id-depth",), ("all",), ("all", "-o", tmp_path / "f.svg"), ("id-depht", "-o", tmp_path / "f.svg")):
        code, _, err = shapelake("figure", *words, "--lake", uri)
        assert (code, len(err.splitlines())) == (2, 2), words
