"""Invariants of a lake after any faults: no cell missing, duplicated, damaged or wrongly quarantined."""

from collections import Counter
from typing import NamedTuple

from pipeline import lake as lakes
from pipeline.lake import Lake
from pipeline.lake.verify import verify_lake
from pipeline.sweep.plan import Plan


class Invariants(NamedTuple):
    """Counts of cells and of violations."""

    committed: int
    quarantined: int
    missing: int
    """Wanted cells that are neither committed nor quarantined."""
    duplicate: int
    """Rows beyond one per (cell, layer)."""
    unreadable: int
    """Files of the lake in which `verify` finds a problem."""
    misjudged: int
    """Good cells that are quarantined, and bad cells that are committed."""
    failures: Counter[str]
    """Failed attempts in the lake, by error class."""

    @property
    def holds(self) -> bool:
        return not (self.missing or self.duplicate or self.unreadable or self.misjudged)


def check_invariants(plan: Plan, lake: Lake, bad: set[int]) -> Invariants:
    """Count cells and violations through the public interface of the lake.

    Args:
        plan: plan with every wanted cell.
        bad: steps of the checkpoints that no retry can repair.
    """
    wanted = {cell.id for cell in plan.cells}
    bad_cells = {cell.id for cell in plan.cells if cell.checkpoint.step in bad}
    committed, quarantined = lake.committed_cell_ids(), lake.quarantined_cell_ids()
    count = "select count(*) - count(distinct (cell_id, layer)) from layers"
    return Invariants(
        committed=len(committed & wanted),
        quarantined=len(quarantined & wanted),
        missing=len(wanted - committed - quarantined),
        duplicate=lakes.open_lake(lake.uri).sql(count).fetchall()[0][0]
        + len(lake.store.list("cells/v1"))
        - len(committed),
        unreadable=len({problem.key for problem in verify_lake(lake)}),
        misjudged=len(quarantined - bad_cells) + len(committed & bad_cells),
        failures=sum(lake.failure_counts().values(), Counter()),
    )
