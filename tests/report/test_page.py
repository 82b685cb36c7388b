"""Content, sources and size of the page; test_browser.py tests it in a browser."""

from collections import Counter
from itertools import product

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline import lake
from pipeline.analysis import compute_finding, model_batches
from pipeline.lake import Lake
from pipeline.lake.saved_queries import all_saved_queries
from pipeline.recipe import built_in_recipe
from pipeline.report import draw_figure, report_writer, write_report
from pipeline.report import page as pages
from pipeline.report.chart_data import ChartRows, build_chart_tables, load_chart_rows, to_json_columns
from pipeline.report.chart_parts import ChartContext
from pipeline.report.sections import HISTORY_SECTIONS, OVERVIEW_SECTIONS
from pipeline.report.survey import NEWEST_SQL, survey_models
from pipeline.report.verdicts import collect_verdicts
from tests.report.conftest import MODELS, STEPS
from tests.support import report_rows
from tests.support.report_reader import Page

SECTIONS = {section.name: section for section in (*OVERVIEW_SECTIONS, *HISTORY_SECTIONS)}
QUERIED = {name: section for name, section in SECTIONS.items() if section.query}
HOSTILE = "lab/it's </script><b>&\"x"


@pytest.fixture(scope="module")
def read(page):
    return Page(page)


def test_it_has_no_external_resources(page, read):
    assert not [found for _, found, _ in read.elements if {"src", "href"} & set(found) and found.get("href") != "#main"]
    policy = next(found["content"] for found, _ in read.all("meta") if "http-equiv" in found)
    assert policy.startswith("default-src 'none'")
    assert "@import" not in page.read_text()


def test_every_chart_has_a_question_a_table_a_query_and_words(read):
    ids = [found["id"] for _, found, _ in read.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {found["data-section"] for found, _ in read.all("div", class_="chart")} == set(SECTIONS)
    assert {found["data-section"] for found, _ in read.all("details", class_="table")} == set(SECTIONS)
    titles = [text for _, text in read.all("h2")]
    captions = [text for _, text in read.all("figcaption")]
    for section in SECTIONS.values():
        assert section.question in titles
        assert section.how_to_read in captions
        assert all(column in read.data["tables"][section.table]["columns"] for column in section.columns)
    named = {found["aria-labelledby"] for found, _ in read.all("section")}
    assert named <= set(ids)
    assert all(found.get("tabindex") == "0" for found, _ in read.all("div", class_="scroll"))


def test_the_steps_of_a_report_in_one_file_are_named(reader, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.progress.SHOW_AFTER_S", 0)
    monkeypatch.setattr("pipeline.progress.PRINT_EVERY_S", 0)
    write_report(reader, tmp_path / "report.html")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Writing the report")]
    steps = (", chart tables", ", findings", ", charts", "")
    assert said == [f"Writing the report: {done} of 4 steps{step}" for done, step in enumerate(steps, 1)]


def test_sentences_are_those_of_the_findings(reader, read):
    lines = [text for _, text in read.all("p", class_="says")]
    for name in ("dome", "convergence", "sinks", "matched"):
        for verdict, sentence in compute_finding(name, reader).select("verdict", "because").iter_rows():
            told = f"{verdict.replace('_', ' ')} {' '.join(sentence.split())}"
            assert any(line.endswith(told) for line in lines), "after the model or the text, where these are several"
    assert any(line.startswith("expand-compress ") for line in lines)


@pytest.mark.parametrize("section", QUERIED.values(), ids=QUERIED)
def test_every_number_can_be_had_by_the_query_that_is_shown(reader, read, section):
    """page.js fills in the same conditions from the same data."""
    assert compared(reader, read, section) >= len(STEPS)


@pytest.fixture(scope="module")
def untidy(tmp_path_factory):
    """Lake of two stages with equal steps, `main` next to a step, and a last step with the previous step's weights."""
    folder = tmp_path_factory.mktemp("untidy")
    uri = report_rows.lake(folder / "lake", {"lab/big": "decoder"}, (0, 8, 64, 512), blocks=3, stages=("one", "two"))
    labels_of = {64: {"revision": "main", "step": None}, 512: {"revision": "two-step9000", "step": 9000}}
    labels = [report_rows.checkpoint("lab/big", "decoder", step, "two") for step in labels_of]
    Lake(uri).record_labels([*labels, *(label.model_copy(update=labels_of[label.step]) for label in labels)])
    reader = lake.open_lake(uri)
    (path,) = write_report(reader, folder / "r.html")
    return reader, Page(path)


@pytest.mark.parametrize("section", QUERIED.values(), ids=QUERIED)
def test_queries_believe_what_the_charts_believe(untidy, section):
    reader, read = untidy
    assert list(read.data["where"]["history"]) == ["lab/big · one", "lab/big · two"]
    last = {row["history"]: row["step"] for row in read.rows("layers") if row["newest"]}
    assert last == {"lab/big · one": 512, "lab/big · two": 64}
    assert compared(reader, read, section) >= 3


def compared(reader, read, section):
    """Check the rows behind a chart against its query, for all values of the controls; return their number."""
    spec, where = read.data["sections"][section.name], read.data["where"]
    by = [control for control in spec["controls"] if control not in ("estimator", "colours")]
    rows = [row for row in read.rows(spec["table"]) if all(row[name] not in (False, None) for name in spec["only"])]
    columns = [column for column in spec["columns"] if column not in ("history", "text")]
    total = 0
    for history, text in product(where["history"], where["text"]):
        choice = {"history": history, "text": text}
        behind = Counter(
            tuple(row[column] for column in columns) for row in rows if all(row[name] == choice[name] for name in by)
        )
        sql = spec["query"].replace("{history}", where["history"][history]).replace("{text}", where["text"][text])
        assert behind <= _rounded(reader.query_frame(sql).select(columns))
        total += behind.total()
    return total


def _rounded(frame: pl.DataFrame) -> Counter:
    columns = to_json_columns(frame)["columns"].values()
    plain = [[c["words"][index] for index in c["at"]] if isinstance(c, dict) else c for c in columns]
    return Counter(zip(*plain, strict=True))


def test_printed_tables_hold_what_their_commands_give(reader, read):
    rows = [text for _, text in read.all("tr")]
    coverage = reader.query_frame(all_saved_queries()["coverage"].sql)
    assert coverage.height == 2 * len(MODELS)
    for model, kind in coverage.select("model", "kind").iter_rows():
        assert any(row.startswith(model + kind) for row in rows)
    commands = [text for _, text in read.all("code")]
    assert f"shapelake query @coverage --lake {reader.uri}" in commands
    assert any("string_agg(DISTINCT dtype)" in command for command in commands)


def test_a_page_that_is_too_large_becomes_an_index_and_a_page_per_model(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 900_000)
    index, *rest = write_report(reader, tmp_path / "r.html")
    assert [path.relative_to(index.parent).as_posix() for path in rest] == ["r/01-lab--bert.html", "r/02-lab--big.html"]
    options = [found["value"] for found, _ in Page(index).all("option") if found.get("value")]
    assert options == ["r/01-lab--bert.html", "r/02-lab--big.html"]
    one = Page(rest[0])
    assert {row["history"] for row in one.rows("layers")} == {"lab/bert"}
    assert ("../r.html", "All models") in [(found["href"], text) for found, text in one.all("a")]
    assert set(one.data["sections"]) == {section.name for section in HISTORY_SECTIONS}
    assert set(Page(index).data["sections"]) == {section.name for section in OVERVIEW_SECTIONS}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Lake of three models with a stage each."""
    models = {"lab/a": "decoder", "lab/b": "encoder", "lab/c": "decoder"}
    return lake.open_lake(report_rows.lake(tmp_path_factory.mktemp("many") / "lake", models, STEPS))


def test_many_models_get_an_index_and_chosen_models_their_pages(many, tmp_path, monkeypatch):
    monkeypatch.setattr(report_writer, "MAX_WHOLE_ROWS", 1)
    monkeypatch.setattr(report_writer, "MAX_MODELS", 2)
    files = write_report(many, tmp_path / "r.html")
    assert [path.name for path in files] == ["r.html"]
    assert files.note.startswith("Index of 3 models; for pages of up to 2 of them run shapelake report --lake ")
    index = Page(files[0])
    assert (index.data["tables"], index.data["sections"]) == ({}, {})
    assert not index.all("div", class_="chart")
    assert files[0].stat().st_size < 60_000
    rows = [text for _, text in index.all("tr")]
    for name in ("lab/a", "lab/b", "lab/c"):
        assert sum(row.startswith(name) for row in rows) >= 4, "verdicts and numbers on two texts"
    some = write_report(many, tmp_path / "some.html", "lab/[ab]")
    assert [path.name for path in some] == ["some.html", "01-lab--a.html", "02-lab--b.html"]
    assert some.note == ""


def test_the_indexs_numbers_can_be_had_by_their_query(many):
    survey = survey_models(ChartRows(many, "*"), with_overview=False)
    columns = ["model", "corpus", "newest_step", "anisotropy", "anisotropy_no_sink", "id_twonn", "loss"]
    found = many.query_frame(NEWEST_SQL).select(columns).rows()
    rounded = [
        [(*row[:3], *(round(value, 9) for value in row[3:])) for row in rows] for rows in (found, _shown(survey))
    ]
    assert sorted(rounded[0]) == sorted(rounded[1])


def _shown(survey):
    assert survey.newest.columns[:3] == ("history", "text", "newest_step")
    return survey.newest.rows


@pytest.mark.parametrize("most", [1, 100_000])
def test_pages_do_not_depend_on_the_batches(many, tmp_path, monkeypatch, most):
    """Scales, verdicts and the overview are those of all models together."""
    monkeypatch.setattr(model_batches, "MAX_BATCH_ROWS", most)
    frame = load_chart_rows(many, "*")
    survey, tables = survey_models(ChartRows(many, "*"), with_overview=True), build_chart_tables(frame)
    assert survey.shown == ChartContext.from_tables(tables)
    assert (survey.facts, survey.where) == (pages.count_facts(frame), pages.select_conditions(frame))
    for part, whole in zip(survey.overview, tables.for_overview(), strict=True):
        assert_frame_equal(part, whole)
    together = collect_verdicts(frame)
    assert sorted(survey.verdicts.lines, key=str) == sorted(together.lines, key=str)
    for name in ("summary", "agreement", "trust"):
        assert getattr(survey.verdicts, name) == getattr(together, name)


def test_names_from_outside_are_only_ever_text(tmp_path):
    uri = report_rows.lake(tmp_path / "lake", {HOSTILE: "decoder"}, (0, 1, 2))
    (path,) = write_report(lake.open_lake(uri), tmp_path / "r.html")
    read = Page(path)
    assert list(read.data["where"]["history"]) == [HOSTILE]
    sql = SECTIONS["map"].query.format(
        history=read.data["where"]["history"][HOSTILE], text=read.data["where"]["text"]["text:prose"]
    )
    assert lake.open_lake(uri).query_frame(sql).height == 3 * 6
    assert not read.all("b", class_="x")
    assert len(read.all("script")) == 3


@pytest.mark.parametrize(
    ("steps", "recipe"),
    [((None,), "quick@1"), ((7,), "quick@1"), ((0, 1, 2), "authors@1")],
    ids=["no step stated", "one checkpoint", "no errors"],
)
def test_lakes_that_lack_what_some_charts_show(tmp_path, steps, recipe):
    uri = report_rows.lake(tmp_path / "lake", {"lab/one": "encoder"}, steps, recipe=built_in_recipe(recipe))
    reader = lake.open_lake(uri)
    (path,) = write_report(reader, tmp_path / "r.html")
    read = Page(path)
    assert len([row for row in read.rows("layers") if row["newest"] and row["block"]]) == 2 * 4
    drawn = {found["data-section"] for found, _ in read.all("div", class_="chart")}
    if len(steps) == 1:
        assert drawn == {"profile", "depth", "newest"}, "a chart over training would have lone dots"
        assert any("Does anisotropy grow in training?" in text for _, text in read.all("p", class_="note"))
    else:
        assert drawn == set(SECTIONS) - {"similarity", "settling"}, "the lake has no similarity records"
        assert read.rows("peaks") == []
    draw_figure(reader, "anisotropy-depth", tmp_path / "f.svg")


def test_the_bundle_stays_in_its_scope():
    code = pages.vega_bundle()
    assert code.startswith("(function(){")
    assert code.endswith("})();")
    assert "</script" not in code


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_size_at_scale(tmp_path):
    """20 models with 154 checkpoints, 25 layers and 2 corpora stay within the limit of bytes per page."""
    steps = (0, *(2**power for power in range(10)), *range(1000, 144_000, 1000))
    models = {f"lab/model-{i:02d}": "encoder" if i % 4 == 3 else "decoder" for i in range(20)}
    uri = report_rows.lake(tmp_path / "lake", models, steps, blocks=23)
    written = write_report(lake.open_lake(uri), tmp_path / "report.html")
    assert len(steps) == 154
    assert len(written) == 21
    assert max(path.stat().st_size for path in written) <= pages.MAX_PAGE_BYTES
