"""What is wrong with a published history, and what changed since the lake saw it: from listings alone, no weights.

A label is no evidence. Of pythia-2.8b 86 step branches serve the final weights (EleutherAI/pythia#205), pythia-12b has
steps with the final model's first shard (#206), OLMo-2-1124-7B three equal steps far apart (allenai/OLMo#915).
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple, TypeVar

from pipeline.catalog.known_issues import is_confirmed_by_listing
from pipeline.catalog.revisions import UNKNOWN_ORDER, History, Revision, RevisionState

Severity = Literal["error", "warning", "note"]
"""error: a curve over these points is wrong; warning: it lacks points; note: worth knowing."""
FindingName = Literal[
    "known-bad",
    "equals-final",
    "equal-weights",
    "shared-shards",
    "no-weights",
    "gap",
    "unparsed",
    "gated",
    "generic-rule",
    "no-repo",
    "no-revisions",
]
RecordedRevisions = Mapping[str, tuple[str | None, str]]
"""Commit and weights digest of each label, by revision name, as the lake last saw it."""

K = TypeVar("K", bound=Hashable)

GAP_RATIO = 1.5
"""An interval this much wider than those around it is a gap; rounded step names stay below."""
GAP_NEIGHBORS = 4


class HistoryFinding(NamedTuple):
    """One thing that is wrong, and where."""

    what: FindingName
    severity: Severity
    revisions: tuple[str, ...]
    """In training order; of a gap those on both sides."""
    says: str
    """For people: one sentence that names the revisions, the first and last of many."""


def audit_history(history: History) -> tuple[HistoryFinding, ...]:
    """Everything that is wrong with a history, the worst first."""
    revisions = sorted(history.revisions, key=lambda revision: revision.sort_key)
    found = (
        *_known_bad(revisions),
        *_equal_to_final(revisions),
        *_equal_weights(revisions),
        *_shared_shards(revisions),
        *_not_measured(revisions),
        *_gaps(revisions),
        *_read_by_the_generic_rule(history),
        *_nothing_there(history),
    )
    return tuple(sorted(found, key=lambda finding: Severity.__args__.index(finding.severity)))


def classify_revisions(history: History, seen: RecordedRevisions) -> dict[str, RevisionState]:
    """The state of every revision and of every label seen before; the first that applies:

    1. what cannot be measured, whatever it was: GATED, UNPARSED, NO_WEIGHTS; what is no longer there: GONE;
    2. what the lake has seen under this name: REUPLOADED, RETAGGED, UNCHANGED;
    3. what it has not: DUPLICATE_OF (of anything seen, or of what comes before it in training), PARTIAL_DUP, NEW.
    """
    known = {weights for _, weights in seen.values()}
    partial = {revision.name for group in _sharing(history.revisions) for revision in group}
    found: dict[str, RevisionState] = {}
    for revision in sorted(history.revisions, key=lambda revision: revision.sort_key):
        found[revision.name] = _state(revision, seen, known, partial)
        known.add(revision.weights_digest or "")
    gone: dict[str, RevisionState] = {name: "GONE" for name in sorted(seen) if name not in found}
    return found | gone


def assign_states(history: History, seen: RecordedRevisions) -> History:
    """The history with `states` in its revisions; what is gone comes last."""
    now = classify_revisions(history, seen)
    there = tuple(replace(revision, state=now.pop(revision.name)) for revision in history.revisions)
    gone = (
        Revision(name, training_order=UNKNOWN_ORDER, commit=seen[name][0], state=state) for name, state in now.items()
    )
    return replace(history, revisions=(*there, *gone))


def _state(revision: Revision, seen: RecordedRevisions, known: set[str], partial: set[str]) -> RevisionState:
    weights = revision.weights_digest
    if weights is None:
        return revision.state
    if revision.name in seen:
        commit, before = seen[revision.name]
        return "REUPLOADED" if weights != before else "UNCHANGED" if commit == revision.commit else "RETAGGED"
    if weights in known:
        return "DUPLICATE_OF"
    return "PARTIAL_DUP" if revision.name in partial else "NEW"


def _known_bad(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """What the catalogue knows and no listing shows, and what it knew; what listings do show is found in them."""
    for fault in dict.fromkeys(fault for revision in revisions for fault in revision.known_bad):
        group = [revision for revision in revisions if fault in revision.known_bad]
        if not fault.shows_in_listing:
            yield _finding("known-bad", "error", group, f"{{}}: {fault.description}")
        elif fixed := [revision for revision in group if is_confirmed_by_listing(fault, revision, revisions) is False]:
            yield _finding("known-bad", "note", fixed, f"{{}}: fixed since it was known for {fault.description}")


def _equal_to_final(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Steps in mid-training with the weights of `main` or of a last step."""
    final = _finals(revisions)
    for group in _equal(revisions):
        middle = [revision for revision in group if revision.name not in final]
        if middle and (ends := [revision.name for revision in group if revision.name in final]):
            says = f"{{}} {_have(middle)} the weights of {ends[-1]}, the end of training{_sources(group)}"
            yield _finding("equals-final", "error", middle, says)


def _equal_weights(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Equal weights under different labels; of neighbours in training it may be true (a step that changed nothing)."""
    final = _finals(revisions)
    at = {revision.name: index for index, revision in enumerate(r for r in revisions if r.weight_hashes)}
    for group in _equal(revisions):
        if not final.isdisjoint(revision.name for revision in group):
            continue
        if all(
            at[b.name] - at[a.name] == 1 and a.training_point.run == b.training_point.run for a, b in pairwise(group)
        ):
            yield _finding("equal-weights", "note", group, f"{{}} have equal weights{_sources(group)}")
        else:
            says = f"{{}} have equal weights, but are no neighbours in training{_sources(group)}"
            yield _finding("equal-weights", "error", group, says)


def _shared_shards(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    for group in _sharing(revisions):
        yield _finding("shared-shards", "error", group, "{} share some of their weight files, not all")


def _not_measured(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """What the listing has and a curve will not."""
    without = [revision for revision in revisions if revision.state == "NO_WEIGHTS"]
    for why, group in _by(without, lambda revision: revision.state_reason).items():
        is_main = all(revision.is_final for revision in group)
        yield _finding("no-weights", "note" if is_main else "warning", group, f"{{}}: {why}{_sources(group)}")
    if unparsed := [revision for revision in revisions if revision.state == "UNPARSED"]:
        yield _finding("unparsed", "warning", unparsed, "{}: no known way to say where in training that is")
    if gated := [revision for revision in revisions if revision.state == "GATED"]:
        yield _finding("gated", "note", gated, "{}: gated, and access is not granted")


def _gaps(revisions: Sequence[Revision]) -> Iterator[HistoryFinding]:
    """Intervals much wider than those before and after them; a grid that only widens, as a log one, has none."""
    for line in _by(
        revisions, lambda r: (r.training_point.run, r.training_point.stage) if _at(r) is not None else None
    ).values():
        steps = [(_at(revision) or 0, revision) for revision in line]
        widths = [b - a for (a, _), (b, _) in pairwise(steps)]
        for index, width in enumerate(widths):
            usual = _usual(widths, index)
            if usual is not None and width > GAP_RATIO * usual:
                ends = [steps[index][1], steps[index + 1][1]]
                yield _finding("gap", "warning", ends, f"nothing between {{}}, where the grid is {usual:,.0f} wide")


def _usual(widths: Sequence[int], index: int) -> float | None:
    """The width of the grid on the wider side of an interval; None at an end, where nobody can tell."""
    before, after = widths[max(index - GAP_NEIGHBORS, 0) : index], widths[index + 1 : index + 1 + GAP_NEIGHBORS]
    return max(median(before), median(after)) if before and after else None


def _at(revision: Revision) -> int | None:
    """Its step, else its tokens or what its publisher counts."""
    place = revision.training_point
    return next((count for count in (place.step, place.tokens, place.position) if count is not None), None)


def _read_by_the_generic_rule(history: History) -> Iterator[HistoryFinding]:
    if history.family_name == "generic" and len(history.revisions) > 1:
        says = f"{history.model} is not in the catalogue: its names were read by the general rule"
        yield HistoryFinding("generic-rule", "note", (), says)


def _nothing_there(history: History) -> Iterator[HistoryFinding]:
    if history.missing_on_hub:
        yield HistoryFinding("no-repo", "warning", (), f"{history.model} is not on the Hub, or is private")
    elif not history.revisions:
        says = f"{history.model} has no revisions: no branch, tag or sub-folder that may be a checkpoint"
        yield HistoryFinding("no-revisions", "warning", (), says)


def _finals(revisions: Sequence[Revision]) -> set[str]:
    """`main`, and the last step of each run that has weights."""
    last = {
        revision.training_point.run: revision.name
        for revision in revisions
        if revision.weight_hashes and _at(revision) is not None
    }
    return {*last.values(), *(revision.name for revision in revisions if revision.is_final)}


def _equal(revisions: Iterable[Revision]) -> list[list[Revision]]:
    """Groups of revisions with equal weights."""
    return [group for group in _by(revisions, lambda r: r.weights_digest).values() if len(group) > 1]


def _sharing(revisions: Iterable[Revision]) -> list[list[Revision]]:
    """Groups of revisions, of different weights, that have a weight file in common."""
    holders: dict[str, list[Revision]] = {}
    for revision in revisions:
        for sha in dict.fromkeys(revision.shard_hashes.values()):
            holders.setdefault(sha, []).append(revision)
    groups = [group for group in holders.values() if len({revision.weights_digest for revision in group}) > 1]
    return list({tuple(revision.name for revision in group): group for group in groups}.values())


def _by(revisions: Iterable[Revision], key: Callable[[Revision], K | None]) -> dict[K, list[Revision]]:
    """The revisions by `key`, those without one left out."""
    groups: dict[K, list[Revision]] = {}
    for revision in revisions:
        if (found := key(revision)) is not None:
            groups.setdefault(found, []).append(revision)
    return groups


def _finding(what: FindingName, severity: Severity, group: Sequence[Revision], says: str) -> HistoryFinding:
    names = tuple(revision.name for revision in group)
    return HistoryFinding(what, severity, names, says.replace("{}", _listed(names), 1))


def _sources(group: Sequence[Revision]) -> str:
    """Where else it stands that these revisions have this fault."""
    shown = dict.fromkeys(f.source for one in group for f in one.known_bad if is_confirmed_by_listing(f, one, group))
    return f" ({', '.join(shown)})" if shown else ""


def _have(group: Sequence[Revision]) -> str:
    return "has" if len(group) == 1 else "have"


def _listed(names: Sequence[str]) -> str:
    """step0, step1 and step2; of many the first, the last and how many."""
    if len(names) > 4:
        return f"{names[0]}, {names[1]} ... {names[-1]} ({len(names)} revisions)"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
