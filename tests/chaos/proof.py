"""What must hold of a lake after any faults: nothing missing, doubled or damaged, and nobody condemned wrongly."""

from collections import Counter
from typing import NamedTuple

from pipeline import lake as lakes
from pipeline.lake import Lake
from pipeline.lake.verify import verify_lake
from pipeline.sweep.plan import Plan


class Proof(NamedTuple):
    """Counts of what is and of what must not be."""

    committed: int
    quarantined: int
    missing: int
    """Wanted cells that are neither committed nor quarantined."""
    duplicate: int
    """Rows beyond one per (cell, layer)."""
    unreadable: int
    """Files of the lake in which `verify` finds something."""
    wronged: int
    """Good cells that stand quarantined, and bad ones that are committed."""
    strikes: Counter[str]
    """Failed attempts in the lake, by class."""

    @property
    def holds(self) -> bool:
        return not (self.missing or self.duplicate or self.unreadable or self.wronged)


def prove(plan: Plan, lake: Lake, bad: set[int]) -> Proof:
    """Look at the lake as a stranger would.

    Args:
        plan: with every wanted cell.
        bad: steps of the checkpoints that no retry can mend.
    """
    wanted = {cell.id for cell in plan.cells}
    condemned = {cell.id for cell in plan.cells if cell.checkpoint.step in bad}
    committed, quarantined = lake.committed_cell_ids(), lake.quarantined_cell_ids()
    count = "select count(*) - count(distinct (cell_id, layer)) from layers"
    return Proof(
        committed=len(committed & wanted),
        quarantined=len(quarantined & wanted),
        missing=len(wanted - committed - quarantined),
        duplicate=lakes.open_lake(lake.uri).sql(count).fetchall()[0][0]
        + len(lake.store.list("cells/v1"))
        - len(committed),
        unreadable=len({problem.key for problem in verify_lake(lake)}),
        wronged=len(quarantined - condemned) + len(committed & condemned),
        strikes=sum(lake.failure_counts().values(), Counter()),
    )
