"""Audit of a history from its listing and the lake: finds mislabelled weights, gaps and changes, and reads no weights.

Labels are not reliable: 86 step branches of pythia-2.8b serve the final weights (EleutherAI/pythia#205), steps of
pythia-12b have the final model's first shard (#206), and three distant steps of OLMo-2-1124-7B have equal weights
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
"""Effect of a finding on a curve over the revisions.

- `error`: the curve is wrong.
- `warning`: the curve lacks points.
- `note`: the curve is not affected.
"""
WeightsFinding = Literal["known-bad", "equals-final", "equal-weights", "shared-shards", "no-weights"]
FindingName = Literal[WeightsFinding, "gap", "unparsed", "gated", "generic-rule", "no-repo", "no-revisions"]
RecordedRevisions = Mapping[str, tuple[str | None, str]]
"""(commit, weights digest) by revision name, as last recorded in the lake; the commit of a local folder is None."""

K = TypeVar("K", bound=Hashable)

GAP_RATIO = 1.5
"""Ratio of an interval between steps to the usual interval around it (see `_usual`), above which the interval is a gap.
Names with rounded steps cause ratios below this limit."""
GAP_NEIGHBORS = 4
"""Maximum number of intervals before, and after, an interval whose medians give the usual interval around it."""


class HistoryFinding(NamedTuple):
    """One audit finding and the revisions concerned."""

    what: FindingName
    severity: Severity
    revisions: tuple[str, ...]
    """Names of the revisions in training order; for a gap, of the two revisions at its ends."""
    says: str
    """One sentence that names the revisions; a list of more than four names is abbreviated."""


def audit_history(history: History) -> tuple[HistoryFinding, ...]:
    """Return all findings about a history, the most severe first."""
    revisions = sorted(history.revisions, key=lambda revision: revision.sort_key)
    checks = (_known_bad, _equal_to_final, _equal_weights, _shared_shards, _not_measured, _gaps)
    findings = [finding for check in checks for finding in check(revisions)]
    order = Severity.__args__.index
    return tuple(sorted([*findings, *_about_listing(history)], key=lambda finding: order(finding.severity)))


def classify_revisions(history: History, recorded: RecordedRevisions) -> dict[str, RevisionState]:
    """Return the state of every listed revision and of every revision that the lake has recorded, by name.

    The first of these rules that applies determines the state:

    1. A revision that cannot be measured is GATED, UNPARSED or NO_WEIGHTS.
    2. A revision that is recorded but no longer listed is GONE.
    3. A revision that is recorded under its name is REUPLOADED, RETAGGED or UNCHANGED.
    4. A revision whose weights are recorded under another name, or belong to an earlier revision in training order, is
       DUPLICATE_OF.
    5. A revision that shares some weight files with another revision is PARTIAL_DUP.
    6. Any other revision is NEW.
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
    """Return the history with the states from `classify_revisions`; revisions that are GONE are appended."""
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
    """Yield a finding for each known issue that no listing can show, and for each that the listing shows to be fixed.

    Known issues that the listing confirms are found by the other checks.
    """
    for issue in dict.fromkeys(issue for revision in revisions for issue in revision.known_bad):
        group = [revision for revision in revisions if issue in revision.known_bad]
        if not issue.shows_in_listing:
            yield _finding("known-bad", "error", group, f"{{}}: {issue.description}")
        elif fixed := [revision for revision in group if is_confirmed_by_listing(issue, revision, revisions) is False]:
            yield _finding("known-bad", "note", fixed, f"{{}}: known issue, now fixed: {issue.description}")


def _equal_to_final(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield findings about steps before the end of training that have the weights of the end of training.

    The end of training is a final model such as `main`, or the last step with weights of a run.
    """
    final = _finals(revisions)
    for group in _group_by_weights(revisions):
        middle = [revision for revision in group if revision.name not in final]
        if middle and (ends := [revision.name for revision in group if revision.name in final]):
            have = "has" if len(middle) == 1 else "have"
            says = f"{{}} {have} the weights of {ends[-1]}, the end of training{_sources(group)}"
            yield _finding("equals-final", "error", middle, says)


def _equal_weights(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield a finding for each group of revisions with equal weights, unless these are the final weights.

    The finding is an error. If the steps are adjacent in training, it is only a note, because the weights of adjacent
    steps can be truly equal.
    """
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
    """Yield findings about revisions that are listed but cannot be measured, one per reason."""
    without = [revision for revision in revisions if revision.state == "NO_WEIGHTS"]
    for why, group in _group_by(without, lambda revision: revision.state_reason).items():
        is_main = all(revision.is_final for revision in group)
        yield _finding("no-weights", "note" if is_main else "warning", group, f"{{}}: {why}{_sources(group)}")
    if unparsed := [revision for revision in revisions if revision.state == "UNPARSED"]:
        yield _finding("unparsed", "warning", unparsed, "{}: no training step can be read from the name")
    if gated := [revision for revision in revisions if revision.state == "GATED"]:
        yield _finding("gated", "note", gated, "{}: the repository is gated, and access is not granted")


def _gaps(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Yield a finding for each interval between steps that is much wider than the intervals before and after it.

    A log-spaced grid has no gap, because its intervals only widen.
    """
    counted = [revision for revision in revisions if _count(revision) is not None]
    for stage in _group_by(counted, lambda r: (r.training_point.run, r.training_point.stage)).values():
        widths = [b - a for a, b in pairwise(_count(revision) or 0 for revision in stage)]
        for index, width in enumerate(widths):
            if width > GAP_RATIO * (usual := _usual(widths, index)):
                says = f"no checkpoint between {{}}, where the usual interval is {usual:,.0f}"
                yield _finding("gap", "warning", stage[index : index + 2], says)


def _usual(widths: Sequence[int], index: int) -> float:
    """Return the usual interval around `widths[index]`, or infinity for the first and the last interval.

    It is the larger of two medians: of up to GAP_NEIGHBORS intervals before it, and of as many after it.
    """
    before, after = widths[max(index - GAP_NEIGHBORS, 0) : index], widths[index + 1 : index + 1 + GAP_NEIGHBORS]
    return max(median(before), median(after)) if before and after else inf


def _count(revision: Revision) -> int | None:
    """Return the step of a revision, else its tokens, else its `position`; None if its name states none of them."""
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
    """Return the names of the final models, such as `main`, and of the last step with weights of each run."""
    last = {r.training_point.run: r.name for r in revisions if r.weight_hashes and _count(r) is not None}
    return {*last.values(), *(revision.name for revision in revisions if revision.is_final)}


def _group_by_weights(revisions: Iterable[Revision]) -> list[list[Revision]]:
    return [group for group in _group_by(revisions, lambda r: r.weights_digest).values() if len(group) > 1]


def _group_by_shared_file(revisions: Iterable[Revision]) -> list[list[Revision]]:
    """Return the groups of revisions that share a weight file, although their weights as a whole are not all equal."""
    holders: dict[str, list[Revision]] = {}
    for revision in revisions:
        for sha in dict.fromkeys(revision.shard_hashes.values()):
            holders.setdefault(sha, []).append(revision)
    several = (group for group in holders.values() if len(group) > 1)
    groups = [group for group in several if len({revision.weights_digest for revision in group}) > 1]
    return list({tuple(revision.name for revision in group): group for group in groups}.values())


def _group_by(revisions: Iterable[Revision], key: Callable[[Revision], K | None]) -> dict[K, list[Revision]]:
    """Return lists of revisions by their `key`; revisions whose key is None are dropped."""
    groups: dict[K, list[Revision]] = {}
    for revision in revisions:
        if (value := key(revision)) is not None:
            groups.setdefault(value, []).append(revision)
    return groups


def _finding(what: FindingName, severity: Severity, group: Sequence[Revision], says: str) -> HistoryFinding:
    names = tuple(revision.name for revision in group)
    return HistoryFinding(what, severity, names, says.replace("{}", _listed(names), 1))


def _sources(group: Sequence[Revision]) -> str:
    """Return, in parentheses, the sources of the known issues that a comparison within the group confirms; else ""."""
    sources = dict.fromkeys(i.source for r in group for i in r.known_bad if is_confirmed_by_listing(i, r, group))
    return f" ({', '.join(sources)})" if sources else ""


def _listed(names: Sequence[str]) -> str:
    """Join names, as in "step0, step1 and step2"; of more than four, give the first two, the last and the number."""
    if len(names) > 4:
        return f"{names[0]}, {names[1]} ... {names[-1]} ({len(names)} revisions)"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
