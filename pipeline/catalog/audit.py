"""Audit of a published history against its listing and the lake: mislabelled weights, gaps, changes; reads no weights.

Labels are not reliable: 86 step branches of pythia-2.8b serve the final weights (EleutherAI/pythia#205), steps of
pythia-12b have the final model's first shard (#206), and three distant steps of OLMo-2-1124-7B are equal
(allenai/OLMo#915).
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from statistics import median
from typing import Literal, NamedTuple, TypeVar

from pipeline.catalog.known_issues import is_confirmed_by_listing
from pipeline.catalog.revisions import UNKNOWN_ORDER, History, Revision, RevisionState

Severity = Literal["error", "warning", "note"]
"""error: a curve over these revisions is wrong; warning: the curve lacks points; note: no effect on a curve."""
WeightsFinding = Literal["known-bad", "equals-final", "equal-weights", "shared-shards", "no-weights"]
FindingName = Literal[WeightsFinding, "gap", "unparsed", "gated", "generic-rule", "no-repo", "no-revisions"]
RecordedRevisions = Mapping[str, tuple[str | None, str]]
"""Newest recorded commit and weights digest by revision name, from the lake."""

K = TypeVar("K", bound=Hashable)

GAP_RATIO = 1.5
"""Ratio of an interval to its neighbours above which the interval is a gap; rounded step names cause lower ratios."""
GAP_NEIGHBORS = 4


class HistoryFinding(NamedTuple):
    """One audit finding and the revisions concerned."""

    what: FindingName
    severity: Severity
    revisions: tuple[str, ...]
    """Revisions in training order; for a gap, the two revisions at its ends."""
    says: str
    """One sentence with the revision names; long lists are abbreviated."""


def audit_history(history: History) -> tuple[HistoryFinding, ...]:
    """Return all findings about a history, the most severe first."""
    revisions = sorted(history.revisions, key=lambda revision: revision.sort_key)
    checks = (_known_bad, _equal_to_final, _equal_weights, _shared_shards, _not_measured, _gaps)
    findings = [finding for check in checks for finding in check(revisions)]
    order = Severity.__args__.index
    return tuple(sorted([*findings, *_about_listing(history)], key=lambda finding: order(finding.severity)))


def classify_revisions(history: History, recorded: RecordedRevisions) -> dict[str, RevisionState]:
    """Return the state of every revision and of every recorded label, by the first rule that applies:

    1. not measurable: GATED, UNPARSED, NO_WEIGHTS; recorded but no longer listed: GONE;
    2. recorded under this name: REUPLOADED, RETAGGED, UNCHANGED;
    3. not recorded: DUPLICATE_OF (recorded weights, or weights of an earlier revision in training), PARTIAL_DUP, NEW.
    """
    known = {weights for _, weights in recorded.values()}
    partial = {revision.name for group in _group_by_shared_file(history.revisions) for revision in group}
    states: dict[str, RevisionState] = {}
    for revision in sorted(history.revisions, key=lambda revision: revision.sort_key):
        states[revision.name] = _state(revision, recorded, known, partial)
        known.add(revision.weights_digest or "")
    gone: dict[str, RevisionState] = {name: "GONE" for name in sorted(recorded) if name not in states}
    return states | gone


def assign_states(history: History, recorded: RecordedRevisions) -> History:
    """Return the history with states from `classify_revisions`; GONE revisions are appended."""
    states = classify_revisions(history, recorded)
    listed = tuple(_with_state(revision, states.pop(revision.name)) for revision in history.revisions)
    gone = (Revision(name, training_order=UNKNOWN_ORDER, commit=recorded[name][0], state="GONE") for name in states)
    return replace(history, revisions=(*listed, *gone))


def _with_state(revision: Revision, state: RevisionState) -> Revision:
    return revision if revision.state == state else replace(revision, state=state)


def _state(revision: Revision, recorded: RecordedRevisions, known: set[str], partial: set[str]) -> RevisionState:
    weights = revision.weights_digest
    if weights is None:
        return revision.state
    if revision.name in recorded:
        commit, before = recorded[revision.name]
        return "REUPLOADED" if weights != before else "UNCHANGED" if commit == revision.commit else "RETAGGED"
    if weights in known:
        return "DUPLICATE_OF"
    return "PARTIAL_DUP" if revision.name in partial else "NEW"


def _known_bad(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield known issues that a listing cannot show or that are fixed; the other checks yield confirmed issues."""
    for issue in dict.fromkeys(issue for revision in revisions for issue in revision.known_bad):
        group = [revision for revision in revisions if issue in revision.known_bad]
        if not issue.shows_in_listing:
            yield _finding("known-bad", "error", group, f"{{}}: {issue.description}")
        elif fixed := [revision for revision in group if is_confirmed_by_listing(issue, revision, revisions) is False]:
            yield _finding("known-bad", "note", fixed, f"{{}}: known issue, now fixed: {issue.description}")


def _equal_to_final(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield mid-training steps with the weights of `main` or of a last step."""
    final = _finals(revisions)
    for group in _group_by_weights(revisions):
        middle = [revision for revision in group if revision.name not in final]
        if middle and (ends := [revision.name for revision in group if revision.name in final]):
            have = "has" if len(middle) == 1 else "have"
            says = f"{{}} {have} the weights of {ends[-1]}, the end of training{_sources(group)}"
            yield _finding("equals-final", "error", middle, says)


def _equal_weights(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield equal weights under different labels; for adjacent steps only a note, because they can be truly equal."""
    final = _finals(revisions)
    at = {revision.name: index for index, revision in enumerate(r for r in revisions if r.weight_hashes)}
    for group in _group_by_weights(revisions):
        if final.isdisjoint(revision.name for revision in group):
            runs, places = {r.training_point.run for r in group}, [at[r.name] for r in group]
            apart = len(runs) > 1 or places[-1] - places[0] != len(group) - 1
            says = f"{{}} have equal weights{', but are not adjacent in training' if apart else ''}{_sources(group)}"
            yield _finding("equal-weights", "error" if apart else "note", group, says)


def _shared_shards(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    for group in _group_by_shared_file(revisions):
        yield _finding("shared-shards", "error", group, "{} share some, but not all, of their weight files")


def _not_measured(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield revisions that are listed but cannot be measured."""
    without = [revision for revision in revisions if revision.state == "NO_WEIGHTS"]
    for why, group in _group_by(without, lambda revision: revision.state_reason).items():
        is_main = all(revision.is_final for revision in group)
        yield _finding("no-weights", "note" if is_main else "warning", group, f"{{}}: {why}{_sources(group)}")
    if unparsed := [revision for revision in revisions if revision.state == "UNPARSED"]:
        yield _finding("unparsed", "warning", unparsed, "{}: the name states no known training step")
    if gated := [revision for revision in revisions if revision.state == "GATED"]:
        yield _finding("gated", "note", gated, "{}: gated, and access is not granted")


def _gaps(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield intervals much wider than both neighbouring intervals; a log-spaced grid, which only widens, has no gap."""
    counted = [revision for revision in revisions if _count(revision) is not None]
    for stage in _group_by(counted, lambda r: (r.training_point.run, r.training_point.stage)).values():
        widths = [b - a for a, b in pairwise(_count(revision) or 0 for revision in stage)]
        for index, width in enumerate(widths):
            if width > GAP_RATIO * (usual := _usual(widths, index)):
                says = f"no checkpoint between {{}}, where the usual interval is {usual:,.0f}"
                yield _finding("gap", "warning", stage[index : index + 2], says)


def _usual(widths: Sequence[int], index: int) -> float:
    """Return the larger of the median intervals before and after an interval; infinity for the first and last one."""
    before, after = widths[max(index - GAP_NEIGHBORS, 0) : index], widths[index + 1 : index + 1 + GAP_NEIGHBORS]
    return max(median(before), median(after)) if before and after else inf


def _count(revision: Revision) -> int | None:
    """Return the step, else the tokens, else the position in the publisher's unit."""
    point = revision.training_point
    return next((count for count in (point.step, point.tokens, point.position) if count is not None), None)


def _about_listing(history: History) -> Iterator[HistoryFinding]:
    if history.missing_on_hub:
        yield HistoryFinding("no-repo", "warning", (), f"{history.model} is not on the Hub, or is private")
    elif not history.revisions:
        says = f"{history.model} has no revisions: no branch, tag or subfolder can be a checkpoint"
        yield HistoryFinding("no-revisions", "warning", (), says)
    elif history.family_name == "generic" and len(history.revisions) > 1:
        says = f"{history.model} is not in the catalogue: its names were read by the general rule"
        yield HistoryFinding("generic-rule", "note", (), says)


def _finals(revisions: Sequence[Revision]) -> set[str]:
    """Return `main`, and the last step with weights of each run."""
    last = {r.training_point.run: r.name for r in revisions if r.weight_hashes and _count(r) is not None}
    return {*last.values(), *(revision.name for revision in revisions if revision.is_final)}


def _group_by_weights(revisions: Iterable[Revision]) -> list[list[Revision]]:
    return [group for group in _group_by(revisions, lambda r: r.weights_digest).values() if len(group) > 1]


def _group_by_shared_file(revisions: Iterable[Revision]) -> list[list[Revision]]:
    """Return groups of revisions with different weights and at least one weight file in common."""
    holders: dict[str, list[Revision]] = {}
    for revision in revisions:
        for sha in dict.fromkeys(revision.shard_hashes.values()):
            holders.setdefault(sha, []).append(revision)
    several = (group for group in holders.values() if len(group) > 1)
    groups = [group for group in several if len({revision.weights_digest for revision in group}) > 1]
    return list({tuple(revision.name for revision in group): group for group in groups}.values())


def _group_by(revisions: Iterable[Revision], key: Callable[[Revision], K | None]) -> dict[K, list[Revision]]:
    """Group revisions by `key`; revisions whose key is None are dropped."""
    groups: dict[K, list[Revision]] = {}
    for revision in revisions:
        if (value := key(revision)) is not None:
            groups.setdefault(value, []).append(revision)
    return groups


def _finding(what: FindingName, severity: Severity, group: Sequence[Revision], says: str) -> HistoryFinding:
    names = tuple(revision.name for revision in group)
    return HistoryFinding(what, severity, names, says.replace("{}", _listed(names), 1))


def _sources(group: Sequence[Revision]) -> str:
    """Return the sources of the group's known issues that this listing confirms, in parentheses."""
    sources = dict.fromkeys(i.source for r in group for i in r.known_bad if is_confirmed_by_listing(i, r, group))
    return f" ({', '.join(sources)})" if sources else ""


def _listed(names: Sequence[str]) -> str:
    """Join names: "step0, step1 and step2"; more than four are abbreviated with their number."""
    if len(names) > 4:
        return f"{names[0]}, {names[1]} ... {names[-1]} ({len(names)} revisions)"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
