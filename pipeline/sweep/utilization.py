"""How much of a run's time its slots spend on what they are for."""

import time
from collections.abc import Callable


class Utilization:
    """The share of the slots' wall time in forward passes and metrics; on GPUs one also reads it as `gpu_busy`.

    The rest is starting processes, fetching, loading, committing and waiting. Cells count when they come back, so the
    share is too low until then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen = clock()
        self._slots_s = self._busy_s = 0.0

    def add_slot_time(self, slots: int) -> None:
        """Since the last tick there were so many slots."""
        now = self._clock()
        self._slots_s += slots * (now - self._seen)
        self._seen = now

    def add_compute_time(self, seconds: float) -> None:
        """What a cell spent in forward passes and metrics."""
        self._busy_s += seconds

    @property
    def share(self) -> float | None:
        """Of 1; null before any time has passed."""
        return round(self._busy_s / self._slots_s, 4) if self._slots_s else None
