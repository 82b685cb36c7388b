"""Contract of all findings, and one real lake from commit to verdict."""

import polars as pl
import pytest

from pipeline import lake as lakes
from pipeline import render
from pipeline.analysis import FINDINGS, compute_all_findings, compute_finding
from pipeline.analysis.frames import load_layer_rows
from pipeline.errors import UsageError
from pipeline.lake import Lake
from tests.conftest import ROOT
from tests.support import finding_rows, lake_rows

CURVES = {"expand", "compress", "flat", "expand-compress", "compress-expand", "collapse-expand-compress"}
CURVES |= {"expand-compress-expand", "oscillating", "too_few", "no_errors"}
VERDICTS = {
    "dome": {"dome", "bump", "valley", "rising", "falling", "flat", "oscillating", "too_few", "no_errors", "no_ends"},
    "matched": {"decoder_domed_more", "encoder_domed_more", "both_domed", "no_dome", "undecided", "no_match"}
    | {"no_errors"},
    "convergence": {"still", "settled", "converging", "moving", "undecided", "too_few", "no_errors"},
    "one_shape": {"converge", "diverge", "unchanged", "too_few", "no_errors"},
    "depth": {"peak", "valley", "rising", "falling", "flat", "valley-then-peak", "peak-then-valley", "oscillating"}
    | {"disputed", "too_few", "no_errors"},
    "phases": CURVES | {"disputed"},
    "agreement": {"agree", "differ"},
    "estimators": CURVES,
    "explosions": {"leads", "no_lead", "too_few", "no_loss"},
    "nulls": {"survives", "differs", "undecided", "absent", "unknown"},
    "controls": {"kept", "lost", "undecided", "no_change", "no_control"},
    "sinks": {"sinks", "not_sinks", "undecided", "unknown", "no_errors"},
    "trends": {"flat", "rising", "falling", "rise-fall", "fall-rise", "fall-rise-fall", "rise-fall-rise", "oscillating"}
    | {"too_few", "no_errors"},
    "linearity": {"linear", "not_linear", "undecided", "no_errors"},
    "massive": {"few", "many", "undecided", "none", "unknown"},
    "valley": {"valley", "no_valley", "undecided", "no_large_norm", "all_large_norm", "no_errors"},
    "isotropy": {"isotropic", "anisotropic", "undecided", "no_errors"},
    "onset": {"earlier_is_better", "later_is_better", "unrelated", "too_few"},
    "similarity": {"graded", "one_geometry", "undecided", "too_few", "no_errors"},
    "rearrangement": {"gradual", "one_step", "scrambled", "one_geometry", "undecided", "too_few", "no_errors"},
    "settling": {"settles", "still", "undecided", "lower_first", "upper_first", "together", "unsettled", "truncated"}
    | {"too_few", "no_errors"},
    "model_convergence": {"converge", "diverge", "unchanged", "too_few", "no_errors"},
    "peak_overlap": {"peak_more_alike", "peak_less_alike", "undecided", "no_peak", "too_few", "no_errors"},
    "trust": {"sound", "care", "doubtful"},
}
NEEDS_RECORDS = {"similarity", "rearrangement", "settling", "model_convergence", "peak_overlap"}
"""Findings from similarity records, which this lake does not have: their contract is in test_similarity.py."""
WITHOUT_CLAIM = {"agreement", "similarity", "trust"}
"""Findings that answer no published claim."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Lake of a decoder with a dome on text only, measured on text and random tokens, and an encoder with none."""
    members = []
    for step in finding_rows.STEPS:
        for corpus, shape in (("enwik8", "dome"), ("random-uniform", "noise")):
            training = [row for row in finding_rows.training(shape, finding_rows.LAYERS) if row["step"] == step]
            profiles = finding_rows.profile(shape, step=step, corpus=corpus, seed=step)
            shared = ("anisotropy", "anisotropy_se", "anisotropy_no_sink", "anisotropy_no_sink_se", "corpus", "depth")
            members += [t | {name: p[name] for name in shared} for t, p in zip(training, profiles, strict=True)]
    members += finding_rows.profile("noise", step=3000, model="lab/bert", kind="encoder")
    return finding_rows.commit(tmp_path_factory.mktemp("lake"), members)


@pytest.fixture(scope="module")
def found(reader):
    return compute_all_findings(reader)


def test_a_real_lake_from_commit_to_verdict(found):
    domes = {(row["model"], row["corpus"]): row["verdict"] for row in found["dome"].to_dicts()}
    assert domes == {
        ("lab/small", "enwik8"): "dome",
        ("lab/small", "random-uniform"): "flat",
        ("lab/bert", "enwik8"): "flat",
    }
    assert found["matched"]["verdict"].to_list() == ["decoder_domed_more"]
    model = found["phases"].filter(pl.col("layer").is_null(), corpus="enwik8", model="lab/small")
    assert model["verdict"].to_list() == ["expand-compress"]
    survived = {
        row["conclusion"]: row["verdict"] for row in found["nulls"].filter(pl.col("layer").is_null()).to_dicts()
    }
    assert survived["dome"] == "differs"


def test_a_frame_and_its_lake_give_the_same(reader, found):
    frame = load_layer_rows(reader)
    assert frame["groups"].unique().to_list() == [4], "groups of the recipe recorded in the lake"
    assert load_layer_rows(frame) is frame
    for name in ("dome", "phases", "trust"):
        assert compute_finding(name, reader).equals(found[name]), name


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_keeps_the_contract(found, name):
    table = found[name]
    assert {"verdict", "rows", "because", "recipe", "corpus"} <= set(table.columns)
    assert ("claim" in table.columns) == (name not in WITHOUT_CLAIM)
    if name not in WITHOUT_CLAIM:
        assert set(table["claim"]) <= {"supports", "contradicts", "undecided"}
    assert compute_finding(name, finding_rows.frame([])).schema == table.schema, "an empty lake has the same columns"
    assert table.is_empty() == (name in NEEDS_RECORDS)
    if name in NEEDS_RECORDS:
        return
    assert set(table["verdict"]) <= VERDICTS[name]
    assert table["rows"].min() >= 1
    assert table["because"].str.ends_with(".").all()
    assert not table["because"].str.contains("None|nan|inf ").any()
    floats = table.select(pl.selectors.float())
    assert not any(column.is_nan().any() or column.is_infinite().any() for column in floats)


def test_a_lake_without_a_record_of_the_recipe_has_no_intervals(reader, tmp_path):
    blind = load_layer_rows(reader).with_columns(groups=pl.lit(None, pl.Int64))
    assert set(compute_finding("dome", blind)["verdict"]) == {"no_errors"}
    assert set(compute_finding("phases", blind.filter(pl.col("step") <= 3000))["verdict"]) <= {"no_errors", "too_few"}


def test_two_texts_of_one_name_are_two_corpora(tmp_path):
    rows_ = [finding_rows.row(model=f"lab/m{i}", step=1, corpus="text:book", corpus_sha256=str(i) * 64) for i in (1, 2)]
    frame = load_layer_rows(finding_rows.commit(tmp_path, [*rows_, finding_rows.row(model="lab/m3", step=1)]))
    assert sorted(frame["corpus"]) == ["enwik8", "text:book#11111111", "text:book#22222222"]


def test_findings_md_has_every_question_and_verdict():
    text = (ROOT / "pipeline/analysis/findings.md").read_text()
    for name, finding in FINDINGS.items():
        assert f"| `{name}` | {finding.question} |" in text
        assert not [word for word in VERDICTS[name] if f"`{word}`" not in text]


def test_an_unknown_finding_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'dome'"):
        compute_finding("domes", finding_rows.frame([]))


def test_an_empty_lake_has_empty_findings(tmp_path):
    Lake(tmp_path / "lake").record_recipe(lake_rows.QUICK)
    assert all(found.is_empty() for found in compute_all_findings(lakes.open_lake(tmp_path / "lake")).values())


def test_a_terminal_shows_the_subject_of_each_doubt(capsys):
    doubted = finding_rows.row(superseded=True, id_ks=0.5)
    render.print_findings({"trust": "?"}, {"trust": compute_finding("trust", finding_rows.frame([doubted]))})
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for row in ("dimension care 100% of 1 rows", "label doubtful 100% of 1 rows"):
        assert sum(row in line for line in printed) == 1
