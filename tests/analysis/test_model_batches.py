"""Rows and findings a few models at a time: equal to those of the whole lake."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.analysis import FINDINGS, compute_findings, load_layer_rows, model_batches
from pipeline.analysis.model_batches import ModelRows
from pipeline.lake import Lake, open_lake
from pipeline.lake.snapshot import compact
from tests.support import finding_rows, recorded_clouds

MODELS = {"lab/a": "dome", "lab/it's b": "falling", "lab/c": "noise"}


@pytest.fixture(scope="module", params=["new", "compacted"])
def reader(request, tmp_path_factory):
    """Lake of two decoders and an encoder on a text and on random tokens; two different texts share a name."""
    rows = []
    for model, shape in MODELS.items():
        for corpus in ("enwik8", "random-uniform"):
            kind, sha = ("encoder" if model == "lab/c" else "decoder"), f"{corpus}{model == 'lab/a'}".ljust(64, "0")
            profiles = {
                step: finding_rows.profile(shape, step=step, model=model, kind=kind, corpus=corpus)
                for step in finding_rows.STEPS
            }
            for each in finding_rows.training(shape, finding_rows.LAYERS, model=model, kind=kind, corpus=corpus):
                rows.append(profiles[each["step"]][each["layer"] - 1] | _dimensions(each) | {"corpus_sha256": sha})
    lake = finding_rows.commit(tmp_path_factory.mktemp("lake"), rows)
    recorded_clouds.add_records(lake.uri, shared=True)
    if request.param == "compacted":
        compact(Lake(lake.uri))
    return open_lake(lake.uri)


def _dimensions(row):
    return {name: value for name, value in row.items() if name.startswith("id_")}


def test_batches_are_the_rows_of_the_lake(reader, monkeypatch):
    monkeypatch.setattr(model_batches, "MAX_BATCH_ROWS", 1)
    frames = list(ModelRows(reader).batches())
    assert [frame["model"].unique().to_list() for frame in frames] == [[model] for model in sorted(MODELS)]
    assert_frame_equal(pl.concat(frames), load_layer_rows(reader))
    assert "enwik8#enwik8Tr" in frames[0]["corpus"], "other models decide whether a name is shared"


@pytest.fixture(scope="module")
def answers(reader):
    """Findings on all rows of the lake at once."""
    whole = load_layer_rows(reader)
    return {name: finding.answer(whole) for name, finding in FINDINGS.items()}


@pytest.mark.parametrize("most", [1, 800])
def test_findings_do_not_depend_on_the_batches(reader, answers, monkeypatch, most):
    """A batch has one model or two; the whole lake is one batch of any larger size."""
    monkeypatch.setattr(model_batches, "MAX_BATCH_ROWS", most)
    found = compute_findings(list(FINDINGS), reader)
    assert list(found) == list(FINDINGS)
    for name in FINDINGS:
        assert not found[name].is_empty()
        assert_frame_equal(found[name], answers[name])


def test_a_lake_without_cells_has_no_findings(tmp_path):
    Lake(tmp_path).identity.begin()
    found = compute_findings(list(FINDINGS), open_lake(tmp_path))
    assert all(frame.is_empty() for frame in found.values())
