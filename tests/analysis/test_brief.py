"""Brief form of the findings: one line per history and text, with verdict, effect and one short sentence."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.analysis import FINDINGS, compute_finding, compute_findings, summarize_finding
from pipeline.analysis.brief_rules import RULES
from pipeline.analysis.trust import compute_trust
from pipeline.errors import UsageError
from pipeline.lake import open_lake
from tests.support import finding_rows, report_rows

STEPS = (0, 1, 8, 64, 512, 4096)
MODELS = {"lab/big": "decoder", "lab/bert": "encoder"}
BLOCKS = 4
TEXTS = ("random-uniform", "text:prose")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report_rows.lake(tmp_path_factory.mktemp("brief") / "lake", MODELS, STEPS, BLOCKS)


def test_every_finding_has_a_brief_form():
    assert set(RULES) == set(FINDINGS)


def test_there_is_at_most_one_line_per_history_and_text(uri: str):
    for name, found in compute_findings(list(FINDINGS), open_lake(uri)).items():
        brief = summarize_finding(name, found)
        keys = [(line.history, line.kind, line.text) for line in brief.lines]
        assert len(keys) == len(set(keys)), name
        assert len(keys) + sum(brief.left_out.values()) <= len(MODELS) * len(TEXTS), name
        assert all(line.verdict and line.layer is None for line in brief.lines), name
        assert all(len(line.sentence) <= 120 for line in brief.lines), name


def test_verdict_and_interval_are_those_of_the_finding(uri: str):
    found = compute_finding("dome", open_lake(uri))
    told = {(line.history, line.text): line for line in summarize_finding("dome", found).lines}
    for row in found.iter_rows(named=True):
        line = told[row["model"], row["corpus"]]
        assert line.verdict == row["verdict"]
        assert line.effect == f"{row['height']:.3f} ({row['height_low']:.3f} to {row['height_high']:.3f})"


def test_a_line_tells_the_answer_to_the_claim_of_its_finding(uri: str):
    found = compute_finding("dome", open_lake(uri))
    brief = summarize_finding("dome", found)
    claims = dict(found.select(pl.concat_str("model", "corpus"), "claim").iter_rows())
    assert brief.claim
    assert {"supports"} <= set(claims.values())
    for line in brief.lines:
        claim = claims[line.history + line.text]
        assert line.sentence.endswith(f"; {claim} the claim") == (claim != "undecided")


def test_rows_without_a_verdict_are_counted_and_layers_are_asked_for(uri: str):
    found = compute_findings(["phases", "convergence"], open_lake(uri))
    assert summarize_finding("convergence", found["convergence"])[2:4] == ([], {"too_few": 4})
    lines = summarize_finding("phases", found["phases"], layers=True).lines
    assert [line.layer for line in lines if (line.history, line.text) == ("lab/big", "text:prose")] == [
        *range(BLOCKS + 2),
        None,
    ]


def test_trust_lists_what_not_to_believe_worst_first():
    rows = [
        finding_rows.row(model="lab/a", id_ks=0.3),
        finding_rows.row(model="lab/b"),
        finding_rows.row(model="lab/c", noise_ratio=0.5, id_ks=0.3),
    ]
    brief = summarize_finding("trust", compute_trust(finding_rows.frame(rows)))
    assert [(line.history, line.verdict) for line in brief.lines] == [("lab/c", "doubtful"), ("lab/a", "care")]
    assert brief.lines[0].sentence == "dimension: rounding of the activations is visible in the nearest distances"
    assert brief.left_out == {"sound": 1}


def test_models_and_corpus_select_before_comparisons(uri: str):
    found = compute_findings(["dome", "matched"], open_lake(uri), models="*big", corpus="text:*")
    assert found["dome"].select("model", "corpus").rows() == [("lab/big", "text:prose")]
    assert found["matched"].is_empty()
    with pytest.raises(UsageError, match="no match in this lake, which has lab/bert, lab/big"):
        compute_findings(["dome"], open_lake(uri), models="big")
    with pytest.raises(UsageError, match="which has random-uniform, text:prose"):
        compute_findings(["dome"], open_lake(uri), corpus="prose")


def test_random_tokens_are_read_although_a_corpus_is_chosen(uri: str):
    found = compute_findings(["nulls"], open_lake(uri), corpus="text:*")["nulls"]
    assert set(found["null"]) == {"random-uniform"}


def test_the_command_prints_a_line_each_and_everything_with_all(uri: str, shapelake):
    code, out, _ = shapelake("findings", "dome", "--lake", uri)
    assert (code, len(out.splitlines())) == (0, 4 + len(MODELS) * len(TEXTS))
    _, layers, _ = shapelake("findings", "phases", "--layers", "--models", "*big", "--corpus", "text:*", "--lake", uri)
    assert sum(" layer " in line for line in layers.splitlines()) == BLOCKS + 2
    _, hidden, _ = shapelake("findings", "convergence", "--lake", uri)
    assert "without a verdict: too_few 4 (in full: shapelake findings convergence --all)" in hidden
    _, full, _ = shapelake("findings", "convergence", "--all", "--lake", uri)
    assert full.count("6 checkpoints are too few") == 4


def test_json_has_every_row_and_column(uri: str, shapelake):
    _, out, _ = shapelake("findings", "phases", "--json", "--models", "*big", "--corpus", "text:*", "--lake", uri)
    (rows,) = json.loads(out).values()
    found = compute_finding("phases", open_lake(Path(uri)))
    assert list(rows[0]) == found.columns
    assert [row["layer"] for row in rows] == [*range(BLOCKS + 2), None]
