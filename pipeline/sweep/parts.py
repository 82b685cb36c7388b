"""Planning in parts: a sweep over many Hub models runs the first models while the others are still being listed."""

from collections.abc import Generator, Sequence
from dataclasses import replace

from pipeline.catalog.discovery import OpenedSource, open_sources
from pipeline.lake import Lake
from pipeline.spec import Local, Sweep
from pipeline.sweep.plan import Plan, SweepPart, make_plan
from pipeline.sweep.step_selection import select_checkpoints, select_sources

PARTS_FROM_REQUESTS = 500
"""Number of listing requests from which on a sweep is planned in parts. So many requests take five minutes at the Hub's
rate limit for users without a token."""


def plan_parts(sweep: Sweep, lake: Lake, retry_quarantined: bool = False) -> Generator[Plan]:
    """Yield plans that together cover the sweep; usually one.

    A sweep whose models need PARTS_FROM_REQUESTS requests or more is planned in parts. A part consists of the models
    whose files have been listed when the caller asks for the part; the remaining models are listed while the caller
    runs the part. Answers of the Hub are cached, so an interrupted sweep repeats no listing.

    Raises:
        UsageError, RecipeDriftError: as for `make_plan`.
        FetchError: the Hub did not answer.
    """
    sources = open_sources(select_sources(sweep), sweep.models)
    on_hub = [source for source in sources if not isinstance(source, Local)]
    if on_hub:
        from pipeline.catalog.hub_listing import count_requests

        if count_requests(on_hub) >= PARTS_FROM_REQUESTS:
            yield from _plan_as_listed(sweep, lake, retry_quarantined, sources)
            return
    yield make_plan(sweep, lake, retry_quarantined, SweepPart(sources))


def _plan_as_listed(
    sweep: Sweep, lake: Lake, retry_quarantined: bool, sources: Sequence[OpenedSource]
) -> Generator[Plan]:
    from pipeline.catalog.hub_listing import list_in_background

    ready: list[OpenedSource] = [source for source in sources if isinstance(source, Local)]
    models = [model for source in sources if not isinstance(source, Local) for model in source.split_by_model()]
    checkpoints = []
    with list_in_background(models) as listing:
        while ready := [*ready, *listing.take()]:
            plan = make_plan(sweep, lake, retry_quarantined, SweepPart(ready, False, listing.models_left))
            checkpoints += [history.checkpoints for history in plan.histories]
            yield plan
            ready = []
    select_checkpoints(checkpoints, sweep.steps)  # raises if --steps matches no checkpoint of any part


def merge_plans(parts: Sequence[Plan]) -> Plan:
    """Return one plan that covers all parts.

    A cell that is in several parts has the state that it had before the first of these parts ran.
    """
    if len(parts) == 1:
        return parts[0]
    cells = {cell.id: (cell, plan) for plan in reversed(parts) for cell in plan.cells}
    return replace(
        parts[-1],
        checkpoints=tuple(checkpoint for plan in parts for checkpoint in plan.checkpoints),
        cells=tuple(cell for cell, _ in cells.values()),
        committed=frozenset(id_ for id_, (_, plan) in cells.items() if id_ in plan.committed),
        quarantined=frozenset(id_ for id_, (_, plan) in cells.items() if id_ in plan.quarantined),
        left_out_by_limit=sum(plan.left_out_by_limit for plan in parts),
    )
