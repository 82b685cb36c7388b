"""Chart tables equal the rows of the lake."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.report.chart_data import build_chart_tables, load_chart_rows, to_json_columns
from pipeline.report.page import to_script_json
from tests.report.conftest import STEPS

BLOCKS = 4


@pytest.fixture(scope="module")
def frame(reader):
    return load_chart_rows(reader, "*")


@pytest.fixture(scope="module")
def made(frame):
    return build_chart_tables(frame)


def test_every_row_is_there_once_and_unchanged(reader, made):
    sql = "SELECT model, corpus, step, layer, anisotropy, id_twonn, id_twonn_se, loss FROM layers ORDER BY ALL"
    drawn = made.layers.select("history", "text", "step", "layer", "anisotropy", "id_twonn", "id_twonn_se", "loss")
    assert sorted(drawn.rows()) == reader.query_frame(sql).rows()


def test_the_newest_rows_are_those_of_the_last_step(made):
    assert made.layers.filter("newest")["step"].unique().to_list() == [STEPS[-1]]
    assert made.layers.filter("newest").height == 2 * 2 * (BLOCKS + 2)


def test_landmarks_are_the_first_block_the_last_and_those_between(made):
    assert sorted(made.layers.filter("landmark")["layer"].unique()) == [1, 2, 3, 4]


def test_means_are_over_blocks_alone(reader, made):
    sql = """SELECT model, corpus, step, avg(anisotropy), avg(id_twonn) FROM layers WHERE state = 'block'
        GROUP BY ALL ORDER BY ALL"""
    found = sorted(made.steps.select("history", "text", "step", "anisotropy", "id_twonn").rows())
    assert len(found) == 2 * 2 * len(STEPS)
    for mine, theirs in zip(found, reader.sql(sql).fetchall(), strict=True):
        assert mine[:3] == theirs[:3]
        assert mine[3:] == pytest.approx(theirs[3:], rel=1e-12)


def test_gaps_are_text_minus_random_with_the_errors_of_a_difference(reader, made):
    sql = """SELECT t.anisotropy - r.anisotropy, sqrt(t.anisotropy_se ** 2 + r.anisotropy_se ** 2)
        FROM layers t JOIN layers r USING (model, step, layer) WHERE t.corpus = 'text:prose'
        AND r.corpus = 'random-uniform' AND model = 'lab/big' AND step = 64 AND layer = 2"""
    one = made.gaps.filter(history="lab/big", step=64, layer=2)
    assert one.select("anisotropy_gap", "anisotropy_gap_se").row(0) == pytest.approx(reader.sql(sql).fetchall()[0])
    assert made.gaps.height == 2 * len(STEPS) * (BLOCKS + 2)


def test_thinning_keeps_the_ends_and_the_newest(made):
    thin = made.downsample(made.layers.height // 3)
    assert sorted(thin.layers["step"].unique()) == [STEPS[0], STEPS[3], STEPS[-1]]
    assert made.downsample(made.layers.height).layers.equals(made.layers)


def test_a_peak_is_marked_only_where_a_finding_gives_one(made):
    assert set(made.peaks["verdict"]) == {"expand-compress"}
    steps = made.peaks.filter(history="lab/big", estimator="id_twonn", layer=3)
    assert (steps["peak_step_low"] <= steps["peak_step"]).all()
    assert (steps["peak_step"] <= steps["peak_step_high"]).all()
    assert not (set(made.peaks["peak_step"]) & {STEPS[0], STEPS[-1]})


def test_names_of_histories_and_texts_have_no_needless_suffix(frame):
    assert set(frame["history"]) == {"lab/big", "lab/bert"}
    assert set(frame["text"]) == {"text:prose", "random-uniform"}


def test_models_are_chosen_by_pattern(reader):
    assert load_chart_rows(reader, "*/be*")["model"].unique().to_list() == ["lab/bert"]
    with pytest.raises(UsageError, match="lab/bert, lab/big"):
        load_chart_rows(reader, "nobody/*")


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.none() | st.integers(-9, 9), st.floats(-1e6, 1e6), st.text())
    )
)
def test_columns_come_back_as_they_went(rows):
    schema = {"word": pl.String, "number": pl.Int64, "value": pl.Float64, "text": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    found = json.loads(to_script_json(to_json_columns(frame)))
    for name, column in found["columns"].items():
        values = [column["words"][index] for index in column["at"]] if isinstance(column, dict) else column
        expected = frame[name].to_list()
        assert values == (pytest.approx(expected, rel=1e-4) if name == "value" else expected)


@given(st.text())
def test_no_text_ends_its_script_element(text):
    encoded = to_script_json({"text": f"</script><!--{text}\u2028"})
    assert "<" not in encoded
    assert json.loads(encoded) == {"text": f"</script><!--{text}\u2028"}
