"""Audit findings and label states: known issues by example, all other rules by property-based tests."""

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.audit import assign_states, audit_history, classify_revisions
from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.family import KnownBad
from pipeline.catalog.revision_names import TrainingPoint
from pipeline.catalog.revisions import FINAL_ORDER, UNKNOWN_ORDER, History, Revision, RevisionState
from pipeline.errors import UsageError
from pipeline.spec import Hub, Members
from tests.support.fake_hub import FakeHub
from tests.support.hub_folders import README, checkpoint, pythia, sharded

PYTHIA = (0, *(2**n for n in range(10)), *range(1000, 144000, 1000))
STANFORD = (*range(0, 100, 10), *range(100, 2000, 50), *range(2000, 20000, 100), *range(20000, 401000, 1000))
BLOOM = (1000, 10_000, *range(100_000, 700_000, 100_000))
OLMO = (*range(0, 118_000, 1000), *range(330_000, 340_000, 1000))


def at(step: int, weights: str | None = None, *shards: str, run: str | None = None) -> Revision:
    """Return a revision with one weight file, or with the given shards; `weights` None = unique weights."""
    point = TrainingPoint(step, run=run)
    files = {f"{i}.safetensors": sha for i, sha in enumerate(shards or [weights or f"{run} {step}"])}
    return Revision(f"{run or ''}step{step}", point, (0, point.sort_key), "commit", weight_hashes=files)


def main(weights: str) -> Revision:
    return Revision("main", training_order=FINAL_ORDER, commit="commit", weight_hashes={"0.safetensors": weights})


def history(*revisions: Revision, rule: str = "pythia") -> History:
    return History("model", revisions, family_name=rule)


ISSUE = KnownBad(rev=re.compile("x"), why="wrong weights", source="source")
EQUAL = KnownBad(rev=re.compile("x"), why="equal to step0", source="the report", equal_to=re.compile("step0"))


def audit(*revisions: Revision) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.what, f.severity, f.revisions) for f in audit_history(history(*revisions))]


def test_a_sound_history_has_no_findings() -> None:
    assert audit_history(history(*(at(step) for step in PYTHIA), main("None 143000"))) == ()


def test_equal_neighbours_are_a_note_and_equal_strangers_an_error() -> None:
    """step0 = step1 can be true; equal weights of distant steps of one run cannot."""
    assert audit(at(0, "a"), at(1, "a"), at(2), at(3)) == [("equal-weights", "note", ("step0", "step1"))]
    assert audit(at(0, "a"), at(1), at(2, "a"), at(3)) == [("equal-weights", "error", ("step0", "step2"))]
    runs = [at(0, "a", run="0"), at(1, "b", run="0"), at(0, "c", run="1"), at(1, "b", run="2"), at(2, run="2")]
    assert audit(*runs)[0][:2] == ("equals-final", "error"), "the last step of one run in the middle of another"


def test_final_weights_in_mid_training() -> None:
    """The last step may equal main; an earlier step may equal neither main nor the last step."""
    assert audit(at(0), at(1), at(2, "end"), main("end")) == []
    (one,) = audit_history(history(at(0, "end"), at(1), at(2, "end"), main("end")))
    assert (one.what, one.severity, one.revisions) == ("equals-final", "error", ("step0",))
    assert one.says == "step0 has the weights of main, the end of training"
    assert audit(at(0, "end"), at(1), at(2, "end")) == [("equals-final", "error", ("step0",))]
    assert audit(at(0), at(1, "soup"), at(2), main("soup")) == [("equals-final", "error", ("step1",))]


def test_a_shard_of_another_step() -> None:
    steps = [at(0, None, "a0", "b0"), at(1, None, "a9", "b1"), at(2, None, "a2", "b2"), at(3, None, "a9", "b9")]
    assert audit(*steps) == [("shared-shards", "error", ("step1", "step3"))]
    same_index = [replace(one, weight_hashes={**one.weight_hashes, "index.json": "same"}) for one in (at(0), at(1))]
    assert audit(*same_index) == []


@pytest.mark.parametrize("grid", [PYTHIA, STANFORD, BLOOM, (0, 1, 2, 4, 8, 16), (5, 9), (5,), (0, 1000, 2000, 2646)])
def test_a_complete_grid_has_no_gap(grid: Sequence[int]) -> None:
    assert audit(*(at(step) for step in grid)) == []


@pytest.mark.parametrize(
    ("grid", "gaps"),
    [
        ([step for step in PYTHIA if step != 5000], [(4000, 6000)]),
        ([step for step in PYTHIA if step not in (5000, 7000, 8000)], [(4000, 6000), (6000, 9000)]),
        ([step for step in STANFORD if step != 700], [(650, 750)]),
        (OLMO, [(117_000, 330_000)]),
    ],
)
def test_a_hole_in_the_grid_is_a_gap(grid: Sequence[int], gaps: list[tuple[int, int]]) -> None:
    ends = [tuple(f"step{step}" for step in gap) for gap in gaps]
    assert audit(*(at(step) for step in grid)) == [("gap", "warning", pair) for pair in ends]


def test_runs_have_separate_grids() -> None:
    runs = [at(step, run=run) for run in ("1", "2") for step in range(0, 10_000 * int(run), 1000 * int(run))]
    assert audit(*runs) == []


def test_what_is_not_measured_is_told() -> None:
    revisions = [
        replace(at(0), weight_hashes={}, state="NO_WEIGHTS", state_reason="no config.json"),
        replace(at(1), known_bad=(ISSUE,)),
        at(2),
        Revision("main", training_order=FINAL_ORDER, state="NO_WEIGHTS", state_reason="neither"),
        Revision("odd", training_order=UNKNOWN_ORDER, state="UNPARSED"),
        Revision("step9", training_order=UNKNOWN_ORDER, state="GATED"),
    ]
    findings = audit_history(history(*revisions, rule="generic"))
    assert [(f.what, f.severity, f.revisions) for f in findings] == [
        ("known-bad", "error", ("step1",)),
        ("no-weights", "warning", ("step0",)),
        ("unparsed", "warning", ("odd",)),
        ("no-weights", "note", ("main",)),
        ("gated", "note", ("step9",)),
        ("generic-rule", "note", ()),
    ]
    assert all(finding.says for finding in findings)
    assert findings[0].says == "step1: wrong weights (source)"


def test_a_known_issue_is_reported_if_confirmed_and_noted_as_fixed_if_refuted() -> None:
    """Digests decide whether weights are equal; a known issue adds its source to the finding."""
    for weights, expected in {
        "aaabc": [("equal-weights", "note", ("step0", "step1", "step2"))],
        "abcde": [("known-bad", "note", ("step1", "step2"))],
        "aabcd": [("known-bad", "note", ("step2",)), ("equal-weights", "note", ("step0", "step1"))],
        "abacd": [("equal-weights", "error", ("step0", "step2")), ("known-bad", "note", ("step1",))],
    }.items():
        steps = [replace(at(step, w), known_bad=(EQUAL,) if step in (1, 2) else ()) for step, w in enumerate(weights)]
        findings = audit_history(history(*steps))
        assert [(f.what, f.severity, f.revisions) for f in findings] == expected
        assert all("(the report)" in f.says for f in findings)
        assert all(("fixed" in f.says) == (f.what == "known-bad") for f in findings)


def test_a_known_issue_that_the_listing_cannot_decide_is_not_reported() -> None:
    assert audit(replace(at(1), known_bad=(EQUAL,)), at(2)) == [], "no step0 to compare with"
    gated = replace(at(1), known_bad=(EQUAL,), weight_hashes={}, state="GATED")
    assert audit(at(0), gated, at(2)) == [("gated", "note", ("step1",))]


def test_known_to_lack_weights() -> None:
    lacks = KnownBad(rev=re.compile("x"), why="no weights", source="the report", no_weights=True)
    (one,) = audit_history(
        history(
            at(0), replace(at(1), known_bad=(lacks,), weight_hashes={}, state="NO_WEIGHTS", state_reason="none"), at(2)
        )
    )
    assert (one.what, one.severity, one.says) == ("no-weights", "warning", "step1: none (the report)")
    (one,) = audit_history(history(at(0), replace(at(1), known_bad=(lacks,)), at(2)))
    assert (one.what, one.severity, one.revisions) == ("known-bad", "note", ("step1",))


@pytest.mark.parametrize("name", ["EleutherAI/pythia-14m", "EleutherAI/pythia-14m-seed1", "EleutherAI/pythia-2.8b"])
def test_a_sound_pythia_has_no_error(hub: FakeHub, name: str) -> None:
    """Known issues of Pythia's early steps are notes, both if the listing confirms and if it refutes them."""
    repo = pythia(hub, name, steps=(0, 1, 2, 4, 8, 1000))
    (fixed,) = discover_histories(Hub(hub=name))
    assert {finding.severity for finding in audit_history(fixed)} == {"note"}
    for step in (1, 2):
        repo.commit(checkpoint(f"{name} 0"), branch=f"step{step}")
    (equal,) = discover_histories(Hub(hub=name))
    finding = next(finding for finding in audit_history(equal) if finding.what == "equal-weights")
    assert (finding.severity, finding.revisions) == ("note", ("step0", "step1", "step2"))
    assert "EleutherAI/pythia/issues" in finding.says


def test_the_end_of_training_under_early_names_is_an_error_with_its_source(hub: FakeHub) -> None:
    repo = pythia(hub, "EleutherAI/pythia-2.8b", steps=(0, 1, 512, 1000, 2000, 143000))
    for name in ("step0", "step512", "step1000"):
        repo.branches[name] = repo.branches["main"]
    (one,) = discover_histories(Hub(hub=repo.id))
    (error,) = [finding for finding in audit_history(one) if finding.severity == "error"]
    assert (error.what, error.revisions) == ("equals-final", ("step0", "step512", "step1000"))
    assert error.says.endswith("(github.com/EleutherAI/pythia/issues/205)")


@pytest.mark.parametrize("name", ["someone/empty", "EleutherAI/pythia-14m", "m-a-p/neo_scalinglaw_250M"])
def test_a_repo_without_any_revision_is_said_to_have_none(hub: FakeHub, name: str) -> None:
    hub.repo(name).tag("v1.0", hub.repo(name).commit(dict(README), branch="refs/pr/1"))
    if name.startswith("m-a-p"):
        hub.repo(name).commit({"hf_ckpt/README.md": b"x"})
    (one,) = discover_histories(Hub(hub=name))
    assert [(finding.what, finding.severity) for finding in audit_history(one)] == [("no-revisions", "warning")]


def test_a_family_of_which_nothing_exists_is_said_so_of_each_model(hub: FakeHub) -> None:
    findings = [finding for one in discover_histories(Members(family="bloom")) for finding in audit_history(one)]
    assert [(finding.what, finding.severity) for finding in findings] == [("no-repo", "warning")] * 5
    for family in ("multiberts", "datadecide"):
        with pytest.raises(UsageError, match="the Hub lists none"):
            discover_histories(Members(family=family))


def test_many_names_are_shortened() -> None:
    (one,) = audit_history(
        history(*(replace(at(step), known_bad=(ISSUE.model_copy(update={"why": "bad {}"}),)) for step in range(9)))
    )
    assert one.says == "step0, step1 ... step8 (9 revisions): bad {} (source)"


STATES = RevisionState.__args__
KNOWN = {"step0": ("commit", "other"), "step1": ("old", None), "step2": ("commit", None), "gone": ("commit", "x")}


def recorded_labels(revisions: Sequence[Revision]) -> dict[str, tuple[str | None, str]]:
    digests = {revision.name: revision.weights_digest or "" for revision in revisions}
    return {name: (commit, weights or digests.get(name, "")) for name, (commit, weights) in KNOWN.items()}


def test_every_state() -> None:
    revisions = [
        at(0),
        at(1),
        at(2, "two"),
        at(3, "two"),
        at(4, None, "a", "b"),
        at(5, None, "a", "c"),
        at(6),
        replace(at(7), weight_hashes={}, state="NO_WEIGHTS"),
        Revision("odd", training_order=UNKNOWN_ORDER, state="UNPARSED"),
        Revision("closed", training_order=UNKNOWN_ORDER, state="GATED"),
    ]
    assert classify_revisions(history(*revisions), recorded_labels(revisions)) == {
        "step0": "REUPLOADED",
        "step1": "RETAGGED",
        "step2": "UNCHANGED",
        "step3": "DUPLICATE_OF",
        "step4": "PARTIAL_DUP",
        "step5": "PARTIAL_DUP",
        "step6": "NEW",
        "step7": "NO_WEIGHTS",
        "closed": "GATED",
        "odd": "UNPARSED",
        "gone": "GONE",
    }


def test_the_first_of_equal_weights_in_training_is_new() -> None:
    assert classify_revisions(history(main("a"), at(1, "a")), {}) == {"step1": "NEW", "main": "DUPLICATE_OF"}
    weights = main("a").weights_digest or ""
    assert classify_revisions(history(at(1, "a")), {"gone": ("c", weights)}) == {
        "step1": "DUPLICATE_OF",
        "gone": "GONE",
    }


@st.composite
def histories(draw: st.DrawFn) -> list[Revision]:
    """Draw up to 12 revisions with at most four different weights, so that many are equal."""
    few = st.sampled_from("abcd")
    kinds = draw(st.lists(st.sampled_from(["at", "shards", "NO_WEIGHTS", "UNPARSED", "GATED"]), max_size=12))
    revisions: list[Revision] = []
    for step, kind in enumerate(kinds):
        if kind == "at":
            revisions.append(at(step, draw(few)))
        elif kind == "shards":
            revisions.append(at(step, None, draw(few), draw(few)))
        else:
            unmeasured = Revision(f"step{step}", training_order=UNKNOWN_ORDER)
            revisions.append(replace(unmeasured, state=kind))  # type: ignore[arg-type]
    return revisions


@given(histories(), st.booleans(), st.integers(0, 9))
def test_every_label_has_exactly_one_state_whatever_the_order_of_the_input(
    revisions: list[Revision], is_warm: bool, seed: int
) -> None:
    recorded = recorded_labels(revisions) if is_warm else {}
    states = classify_revisions(history(*revisions), recorded)
    assert states.keys() == {revision.name for revision in revisions} | recorded.keys()
    assert set(states.values()) <= set(STATES)
    shuffled = Random(seed).sample(revisions, len(revisions))
    assert classify_revisions(history(*shuffled), dict(reversed(recorded.items()))) == states
    assert audit_history(history(*shuffled)) == audit_history(history(*revisions))
    assert {r.name: r.state for r in assign_states(history(*shuffled), recorded).revisions} == states
    measured = [r for r in revisions if r.weights_digest]
    same = {r.name: (r.commit, r.weights_digest or "") for r in measured}
    assert all(classify_revisions(history(*revisions), same)[r.name] == "UNCHANGED" for r in measured)
    new = [
        r.weights_digest
        for r in measured
        if classify_revisions(history(*revisions), {})[r.name] in ("NEW", "PARTIAL_DUP")
    ]
    assert len(new) == len(set(new)) == len({r.weights_digest for r in measured}), "each content is new once"


def lake(history: History) -> dict[str, tuple[str | None, str]]:
    """Return the labels in a lake that has measured the whole history."""
    return {c.revision: (c.commit_sha, c.weights_digest) for c in history.checkpoints}


def test_changes_of_a_published_history(hub: FakeHub) -> None:
    repo = pythia(hub, steps=(0, 1, 2, 512))
    before = discover_histories(Hub(hub=repo.id))[0]
    repo.commit({"README.md": b"more"}, branch="step0")
    repo.commit(checkpoint("again"), branch="step1")
    repo.delete("step2")
    repo.commit(checkpoint("EleutherAI/pythia-14m 0"), branch="step4")
    after = discover_histories(Hub(hub=repo.id))[0]
    assert classify_revisions(after, lake(before)) == {
        "step0": "RETAGGED",
        "step1": "REUPLOADED",
        "step2": "GONE",
        "step4": "DUPLICATE_OF",
        "step512": "UNCHANGED",
        "main": "UNCHANGED",
    }


def test_an_audit_needs_no_weights(hub: FakeHub) -> None:
    """Issues of three published histories in one repo are found from trees alone."""
    repo = pythia(hub, "EleutherAI/pythia-12b", steps=tuple(range(0, 7000, 1000)))
    for step, (first, second) in {1000: "ab", 4000: "xz", 6000: "xy"}.items():
        repo.commit({"model.safetensors": None, **sharded(first, second)}, branch=f"step{step}")
    repo.commit({"model.safetensors": None, **sharded(*"xy")})
    repo.commit(checkpoint("EleutherAI/pythia-12b 0"), branch="step3000")
    repo.delete("step5000")
    (one,) = discover_histories(Hub(hub=repo.id))
    errors = [finding for finding in audit_history(one) if finding.severity == "error"]
    assert [(finding.what, finding.revisions) for finding in errors] == [
        ("equal-weights", ("step0", "step3000")),
        ("shared-shards", ("step4000", "step6000", "main")),
    ]
    assert not [request for request in hub.requests if "safetensors" in request.path and "index" not in request.path]
