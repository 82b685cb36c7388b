"""Estimate of the remaining time of a run from the expected cost of each cell, given from the third cell on."""

import time
from collections.abc import Callable, Mapping

MIN_CELLS = 3
"""Number of cells that must be done before an estimate is given."""


class RemainingTime:
    """Estimator of the remaining time; each cell is weighted by its expected cost, so that large models count for more.

    The rate is the work done since the first cell began, divided by the time since then. Cells in flight count as half
    done, except one, which has just started in place of the last finished cell. Tests with start-up, loading, several
    slots and models of different size bound the error by a factor of two from the third cell on.

    Args:
        expected_s: expected seconds of each cell to run, by id; only their ratios count.
    """

    def __init__(self, expected_s: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._expected_s = clock, dict(expected_s)
        self._mean_s = sum(expected_s.values()) / len(expected_s) if expected_s else 1.0
        self._left = sum(expected_s.values())
        self._done, self._cells, self._began_at = 0.0, 0, clock()

    def add(self, cell_id: str, seconds: float) -> None:
        """Count a cell that took `seconds` as done."""
        if not self._cells:
            self._began_at = max(self._began_at, self._clock() - seconds)
        work = self._expected_s.pop(cell_id, 0.0)
        self._cells, self._done, self._left = self._cells + 1, self._done + work, self._left - work

    def drop(self, n_cells: int) -> None:
        """Subtract the work of `n_cells` cells that will not run; each counts with the mean work of a cell."""
        self._left = max(self._left - n_cells * self._mean_s, 0.0)

    def estimate_s(self, running: int) -> float | None:
        """Return the seconds left while `running` tasks are in flight; None before the third cell."""
        if self._cells < MIN_CELLS or not self._done:
            return None
        in_flight = min(max(running - 1, 0) / 2 * self._done / self._cells, self._left / 2)
        rate = (self._done + in_flight) / max(self._clock() - self._began_at, 1e-9)
        return (self._left - in_flight) / rate


def format_remaining(seconds: float | None) -> str:
    """Format an estimate in its largest unit: `about 12 min left`."""
    if seconds is None:
        return "no estimate yet"
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"about {seconds / unit:.2g} {name} left"
    return f"about {seconds:.0f} s left"
