"""Detectors: one number of a run compared with its recent past, and an alarm where the deviation is large."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from jobs.explosions.disturbances import EARLIEST
from jobs.explosions.training import LAYERS, Run

WINDOW, FEWEST = 128, 16
"""Number of earlier steps with which a value is compared; with fewer than FEWEST readings in them, the score is 0."""
FLOOR = 1e-3
"""Lower limit of the spread by which a deviation is divided.

Values are logarithms or shares, in which a change of 0.001 is negligible.
"""
HORIZON = 128
"""Largest number of steps between an alarm and an event for the alarm to count as a warning."""


class Detector(NamedTuple):
    """Detector that raises an alarm where `direction` * z exceeds a threshold; if `direction` is 0, where |z| does."""

    name: str
    columns: tuple[str, ...]
    direction: int
    log: bool = True

    def values(self, run: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and values of the rows without nulls: the mean over the columns, of logarithms if `log`."""
        known = run.select("step", *self.columns).drop_nulls()
        values = known.select(self.columns).to_numpy()
        return known["step"].to_numpy(), (np.log(values) if self.log else values).mean(1)

    def scores(self, run: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and scores of the readings from EARLIEST on; a score uses no later step than its own."""
        steps, values = self.values(run)
        judged = [i for i in range(len(steps)) if steps[i] >= EARLIEST]
        pasts = [values[(steps >= steps[i] - WINDOW) & (steps < steps[i])] for i in judged]
        z = [robust_z(values[i], past) for i, past in zip(judged, pasts, strict=True)]
        return steps[judged], np.abs(z) if not self.direction else self.direction * np.array(z)


def blocks(name: str) -> tuple[str, ...]:
    """Return the columns of metric `name` at the block outputs."""
    return tuple(f"{name}_{layer}" for layer in range(1, LAYERS + 1))


DETECTORS = (
    Detector("dimension rises", blocks("id_mle"), 1),
    Detector("dimension falls", blocks("id_mle"), -1),
    Detector("anisotropy rises", blocks("anisotropy"), 1),
    Detector("anisotropy falls", blocks("anisotropy"), -1),
    Detector("sign diversity falls", ("sign_diversity",), -1, log=False),
    Detector("gradient norm rises", ("gradient",), 1),
    Detector("loss rises", ("loss",), 1),
)


def robust_z(value: float, past: np.ndarray) -> float:
    """Return (value - median) / (1.4826 MAD) of the past; 0 if the past has fewer than FEWEST readings."""
    if len(past) < FEWEST:
        return 0.0
    center = np.median(past)
    return float((value - center) / max(1.4826 * np.median(np.abs(past - center)), FLOOR))


def threshold(detector: Detector, calm: Sequence[pl.DataFrame], share: float) -> float:
    """Return the lowest threshold at which at most this share of the calm runs has an alarm."""
    highest = sorted((float(detector.scores(run)[1].max()) for run in calm), reverse=True)
    return highest[math.floor(share * len(highest))]


def first_alarm(detector: Detector, run: pl.DataFrame, above: float, since: int = EARLIEST) -> int | None:
    """Return the first step from `since` on at which an alarm begins, else None.

    An alarm begins at a reading with a score above the threshold `above` whose previous reading has none.
    """
    steps, scores = detector.scores(run)
    on = scores > above
    begins = on & ~np.concatenate([[False], on[:-1]])
    alarms = steps[begins & (steps >= since)]
    return int(alarms[0]) if len(alarms) else None


def lead(detector: Detector, about: Run, run: pl.DataFrame, above: float) -> int:
    """Return the steps from the first valid alarm to the event (last row of `run`); 0 without a warning.

    The reading at `start` does not count: no disturbed update has changed its weights yet.
    """
    event = run["step"][-1]
    alarm = first_alarm(detector, run, above, max(about.start + 1, event - HORIZON))
    return 0 if alarm is None else event - alarm
