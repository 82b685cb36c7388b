"""Finding `trust`: each rule on a row that breaks this rule only."""

import pytest

from pipeline import lake as lakes
from pipeline.analysis.trust import DOUBT_RULES, compute_trust, list_doubts
from pipeline.lake import Audit, Audited, Lake
from tests.support import finding_rows
from tests.support import lake_rows as lakemade

BROKEN = {
    "status": {"status": "nonfinite"},
    "superseded": {"superseded": True},
    "audit": {"audit": "DUPLICATE_OF"},
    "duplicate": {"duplicate_of": "lab/small@main"},
    "ks": {"id_ks": 0.15},
    "same_context": {"same_context_share": 0.27},
    "same_token": {"same_token_share": 0.3},
    "duplicates": {"n_duplicates": 1500},
    "authors_duplicates": {"n_near_duplicates": 100, "id_authors": 20.0},
    "noise": {"noise_ratio": 0.04},
    "unresolved": {"n_unresolved": 60},
    "nonfinite": {"n_nonfinite": 1},
    "few_points": {"flags": ["few_points"]},
    "round_trip": {"flags": ["spectrum_floor", "tokenizer_round_trip"]},
    "unexpected_keys": {"flags": ["unexpected_keys:head.bias"]},
    "shorter_context": {"flags": ["shorter_context"]},
}


def test_a_sound_row_has_no_doubt():
    assert list_doubts(finding_rows.frame([finding_rows.row()])).is_empty()
    assert set(compute_trust(finding_rows.frame([finding_rows.row()]))["verdict"]) == {"sound"}


def test_every_rule_is_tested():
    assert set(BROKEN) | {"mislabelled"} == set(DOUBT_RULES)


@pytest.mark.parametrize("name", BROKEN)
def test_a_row_that_breaks_one_rule(name):
    sound = finding_rows.row(step=1)
    (doubt,) = list_doubts(finding_rows.frame([sound, finding_rows.row(step=2, **BROKEN[name])])).to_dicts()
    rule = DOUBT_RULES[name]
    assert (doubt["doubt"], doubt["about"], doubt["verdict"], doubt["step"]) == (name, rule.about, rule.verdict, 2)
    assert doubt["value"] > doubt["limit"] == rule.limit
    assert doubt["because"].endswith(".")
    assert rule.because[1:] in doubt["because"]


def test_unknown_is_no_doubt():
    unknown = dict.fromkeys(("id_ks", "same_context_share", "noise_ratio", "n_points", "n_duplicates", "n_unresolved"))
    assert list_doubts(finding_rows.frame([finding_rows.row(**unknown)])).is_empty()


def test_equal_weights_under_two_steps_are_in_doubt_both():
    rows = [finding_rows.row(step=step, weights_digest="same") for step in (5, 7)] + [finding_rows.row(step=9)]
    found = list_doubts(finding_rows.frame(rows))
    assert found.select("step", "doubt", "value").rows() == [(5, "mislabelled", 2.0), (7, "mislabelled", 2.0)]


def test_a_label_without_a_step_contradicts_no_other():
    """`main` next to the last step, as in most published histories."""
    rows = [
        finding_rows.row(step=step, revision=name, weights_digest="same")
        for step, name in ((None, "main"), (7, "step7"))
    ]
    assert list_doubts(finding_rows.frame(rows)).is_empty()


def test_the_summary_counts_rows_and_gives_the_worst_word():
    rows = [finding_rows.row(layer=i) for i in range(8)]
    care = {
        row["about"]: row for row in compute_trust(finding_rows.frame([rows[0] | {"id_ks": 0.5}, *rows[1:]])).to_dicts()
    }
    assert (care["dimension"]["verdict"], care["dimension"]["share"]) == ("care", 1 / 8)
    rows[0] |= {"id_ks": 0.5, "same_context_share": 0.5}
    rows[1] |= {"id_ks": 0.5}
    rows[2] |= {"noise_ratio": 0.5}
    found = {row["about"]: row for row in compute_trust(finding_rows.frame(rows)).to_dicts()}
    assert set(found) == {"dimension", "id_authors", "label", "row"}
    assert (found["dimension"]["verdict"], found["dimension"]["share"]) == ("doubtful", 1 / 8)
    sentence = found["dimension"]["because"]
    assert sentence.startswith("12% of 8 rows")
    assert DOUBT_RULES["noise"].because in sentence, (
        "the reason of a doubtful row, although one of `care` is more frequent"
    )
    assert found["row"]["verdict"] == found["label"]["verdict"] == "sound"


def test_an_audit_that_found_nothing_is_no_doubt():
    assert list_doubts(
        finding_rows.frame([finding_rows.row(audit="NEW"), finding_rows.row(audit="UNCHANGED"), finding_rows.row()])
    ).is_empty()


def test_the_audit_of_a_real_lake(tmp_path):
    finding_rows.commit(tmp_path, [finding_rows.row(step=1), finding_rows.row(step=2)])
    point = lakemade.checkpoint(2)
    fields = {name: getattr(point, name) for name in Audited.model_fields if hasattr(point, name)}
    audited = Audited(**fields, state="DUPLICATE_OF", findings=("its weights are those of step1",))
    Lake(tmp_path).record_audit(Audit(model="lab/small", family=None, revisions=(audited,)))
    assert list_doubts(lakes.open_lake(tmp_path)).filter(doubt="audit")["step"].to_list() == [2]
