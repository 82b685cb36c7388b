"""Comparison of the catalogue's known issues with the current listing."""

from collections.abc import Iterable

from pipeline.catalog.family import KnownBad
from pipeline.catalog.revisions import Revision


def is_confirmed_by_listing(issue: KnownBad, revision: Revision, among: Iterable[Revision]) -> bool | None:
    """Return True if the listing confirms the issue, False if it refutes the issue, None if it cannot decide.

    Args:
        among: revisions of the same history, with or without `revision`.
    """
    if issue.no_weights:
        return True if revision.state == "NO_WEIGHTS" else False if revision.weight_hashes else None
    others = [r for r in among if r.weight_hashes and r.name != revision.name and _matches_equal_to(issue, r)]
    if not (revision.weight_hashes and others):
        return None
    return any(other.weights_digest == revision.weights_digest for other in others)


def list_active_issues(revision: Revision, among: Iterable[Revision]) -> tuple[KnownBad, ...]:
    """Return the known issues of a revision that the listing confirms, and those that no listing can show."""
    among = tuple(among)
    return tuple(i for i in revision.known_bad if not i.shows_in_listing or is_confirmed_by_listing(i, revision, among))


def _matches_equal_to(issue: KnownBad, revision: Revision) -> bool:
    return issue.equal_to is not None and issue.equal_to.fullmatch(revision.name) is not None
