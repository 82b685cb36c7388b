"""Result of a run, with its exit code."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.spec import Cell
from pipeline.sweep.backend import LeftOutCells
from pipeline.sweep.task import Outcome


@dataclass
class RunReport:
    """Result of a run."""

    committed: int = 0
    """Wanted cells that this run committed."""
    by_others: int = 0
    """Wanted cells that other runs committed meanwhile."""
    measured_twice: int = 0
    """Cells among `by_others` that this run had measured too."""
    failures: dict[str, tuple[Cell, Outcome]] = field(default_factory=dict)
    """Last failure of each cell that is not committed, by cell id."""
    quarantined_cells: tuple[Cell, ...] = ()
    """Wanted cells that were quarantined before the run."""
    left_out: tuple[LeftOutCells, ...] = ()
    """Cells that no node can run, by model."""
    n_unfinished: int = 0
    """Wanted cells neither committed nor failed, because the run was told to stop or stopped itself."""
    signal_number: int = 0
    stop_reason: str = ""
    """Reason why the run stopped itself; empty if it did not."""

    lost: int = 0
    """Cells that were committed during the run and are no longer in the lake at its end."""
    unlisted_models: int = 0
    """Models of the sweep that were not planned, because the run ended while the Hub listed them."""

    @property
    def n_done(self) -> int:
        """Wanted cells that were committed during the run and are in the lake at its end."""
        return self.committed + self.by_others - self.lost

    @property
    def exit_code(self) -> int:
        """0 if all wanted cells are committed; 143 if SIGTERM left work for a rerun, even if cells failed too; 1 if a
        cell failed, is quarantined or was left out, or the run stopped itself."""
        if self.signal_number and (self.n_unfinished or self.unlisted_models) and not self.stop_reason:
            return 128 + self.signal_number
        return 1 if self.failures or self.quarantined_cells or self.left_out or self.stop_reason else 0


def merge_reports(parts: Sequence[RunReport], unlisted_models: int) -> RunReport:
    """Return the report of the parts of one sweep, in the order in which they ran."""
    return RunReport(
        committed=sum(part.committed for part in parts),
        by_others=sum(part.by_others for part in parts),
        measured_twice=sum(part.measured_twice for part in parts),
        failures={id_: failure for part in parts for id_, failure in part.failures.items()},
        quarantined_cells=tuple(cell for part in parts for cell in part.quarantined_cells),
        left_out=tuple(cells for part in parts for cells in part.left_out),
        n_unfinished=sum(part.n_unfinished for part in parts),
        signal_number=parts[-1].signal_number,
        stop_reason=parts[-1].stop_reason,
        lost=sum(part.lost for part in parts),
        unlisted_models=unlisted_models,
    )
