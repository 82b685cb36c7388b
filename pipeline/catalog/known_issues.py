"""What the catalogue knows to be wrong with a revision, held against what the listing shows today."""

from collections.abc import Iterable

from pipeline.catalog.family import KnownBad
from pipeline.catalog.revisions import Revision


def is_confirmed_by_listing(fault: KnownBad, revision: Revision, among: Iterable[Revision]) -> bool | None:
    """Whether the listing shows a fault of `revision`; null where it cannot tell.

    Args:
        among: revisions of the same history, `revision` itself or not.
    """
    if fault.no_weights:
        return True if revision.state == "NO_WEIGHTS" else False if revision.weight_hashes else None
    others = [one for one in among if one.weight_hashes and one.name != revision.name and _is_named(fault, one)]
    if not (revision.weight_hashes and others):
        return None
    return any(one.weights_digest == revision.weights_digest for one in others)


def list_active_issues(revision: Revision, among: Iterable[Revision]) -> tuple[KnownBad, ...]:
    """The faults to be told of a revision: those that the listing shows, and those that no listing could."""
    among = tuple(among)
    return tuple(
        one for one in revision.known_bad if not one.shows_in_listing or is_confirmed_by_listing(one, revision, among)
    )


def _is_named(fault: KnownBad, revision: Revision) -> bool:
    return fault.equal_to is not None and fault.equal_to.fullmatch(revision.name) is not None
