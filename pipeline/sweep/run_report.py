"""Result of a run, with its exit code."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.spec import Cell
from pipeline.sweep.backend import LeftOutCells
from pipeline.sweep.task import Outcome


@dataclass
class RunReport:
    """Counts, failures and stop reason of a run."""

    committed: int = 0
    """Number of wanted cells that this run committed."""
    by_others: int = 0
    """Number of wanted cells that other runs committed meanwhile."""
    measured_twice: int = 0
    """Number of cells among `by_others` that this run measured too."""
    failures: dict[str, tuple[Cell, Outcome]] = field(default_factory=dict)
    """Maps the id of each cell that failed and is not committed to the cell and its last failed outcome."""
    quarantined_cells: tuple[Cell, ...] = ()
    """Wanted cells that were quarantined before the run."""
    left_out: tuple[LeftOutCells, ...] = ()
    """Cells that no node can run, one entry per model and reason."""
    n_unfinished: int = 0
    """Number of wanted cells that neither were committed nor failed, because a signal or the run itself ended it."""
    signal_number: int = 0
    stop_reason: str = ""
    """Reason why the run stopped itself; empty if it did not."""

    lost: int = 0
    """Number of cells that were committed during the run and are no longer in the lake at its end."""
    unlisted_models: int = 0
    """Number of models of the sweep that were not planned, because the run ended before the Hub had listed them."""

    @property
    def n_done(self) -> int:
        """Number of wanted cells that were committed during the run and are in the lake at its end."""
        return self.committed + self.by_others - self.lost

    @property
    def exit_code(self) -> int:
        """Exit code of the run.

        0: all wanted cells are committed.
        130 or 143: Ctrl-C or SIGTERM left work for a rerun, even if cells failed too.
        1: a cell failed, is quarantined or was left out, or the run stopped itself.
        """
        if self.signal_number and (self.n_unfinished or self.unlisted_models) and not self.stop_reason:
            return 128 + self.signal_number
        return 1 if self.failures or self.quarantined_cells or self.left_out or self.stop_reason else 0


def merge_reports(parts: Sequence[RunReport], unlisted_models: int) -> RunReport:
    """Return one report for the parts of a sweep, which are given in the order in which they ran."""
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
