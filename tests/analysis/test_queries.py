"""Saved queries on a small real lake."""

import pytest

from pipeline import lake as lakes
from pipeline.errors import UsageError
from pipeline.lake.saved_queries import all_saved_queries, resolve_query
from tests.support import finding_rows


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    rows = [row | {"id_twonn": 10.0 + 5 * (row["step"] == 2), "id_twonn_se": 0.1} for row in profiles()]
    return finding_rows.commit(tmp_path_factory.mktemp("lake"), rows)


def profiles():
    for step, shape in ((1, "noise"), (2, "rising"), (3, "dome")):
        yield from finding_rows.profile(shape, step=step)
    yield finding_rows.row(step=3, layer=0, state="embedding", anisotropy=0.99)


def test_the_names():
    assert set(all_saved_queries()) == {"dome", "id-peak", "sink", "audit", "coverage"}
    assert all(meaning and sql.strip() for meaning, sql in all_saved_queries().values())


@pytest.mark.parametrize("name", all_saved_queries())
def test_every_saved_query_runs_and_finds_rows(reader, name):
    assert len(reader.query_frame(resolve_query(f"@{name}"))) > 0


def test_the_dome_is_that_of_the_last_step_and_of_blocks(reader):
    (row,) = reader.query_frame(resolve_query("@dome")).to_dicts()
    assert row["step"] == 3
    assert row["peak"] < 0.9
    assert 0.3 < row["peak_depth"] < 0.8
    assert row["first_block"] < row["peak"] - 0.3 > row["last_block"] - 0.1


def test_the_peak_of_dimension(reader):
    found = reader.query_frame(resolve_query("@id-peak")).filter(layer=5).row(0, named=True)
    assert (found["peak_step"], found["peak"], found["peak_se"], found["steps"]) == (2, 15.0, 0.1, 3)
    assert found["at_first_step"] == found["at_last_step"] == 10.0


def test_sinks_and_coverage(reader):
    found = reader.query_frame(resolve_query("@sink"))
    assert len(found) == 3 * finding_rows.LAYERS
    assert found["sink_token_share"].to_list() == pytest.approx([100 / 12_800] * len(found))
    (covered,) = reader.query_frame(resolve_query("@coverage")).to_dicts()
    assert (covered["labels"], covered["first_step"], covered["last_step"], covered["rows"]) == (3, 1, 3, 37)
    assert covered["not_ok"] == 0


def test_the_audit_lists_every_label(reader):
    found = reader.query_frame(resolve_query("@audit"))
    assert found["revision"].to_list() == ["step1", "step2", "step3"]
    assert {"duplicate_of", "superseded"} <= set(found.columns)


def test_plain_sql_passes_and_a_wrong_name_is_an_error():
    assert resolve_query("select 1") == "select 1"
    assert resolve_query(" @dome ") == all_saved_queries()["dome"].sql
    with pytest.raises(UsageError, match="did you mean 'coverage'") as caught:
        resolve_query("@coverge")
    assert len(str(caught.value).splitlines()) == 2


def test_an_empty_lake_answers_with_no_rows(tmp_path):
    for name in all_saved_queries():
        assert lakes.LakeReader(tmp_path).query_frame(resolve_query(f"@{name}")).is_empty()
