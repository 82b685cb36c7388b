"""Detectors: one number of a run against its own recent past, and an alarm where it leaves it too far."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from jobs.explosions.disturbances import EARLIEST
from jobs.explosions.training import LAYERS, Run

WINDOW, FEWEST = 128, 16
"""Steps of the past that a value is compared with, and the fewest readings in them."""
FLOOR = 1e-3
"""Least spread: values are logarithms or shares, of which a thousandth is no news."""
HORIZON = 128
"""An alarm so many steps before the event warned of it; an earlier one did not."""


class Detector(NamedTuple):
    """An alarm where `direction` * z exceeds a threshold; direction 0 takes |z|."""

    name: str
    columns: tuple[str, ...]
    direction: int
    log: bool = True

    def values(self, run: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values, the mean over the columns, where all of them are known."""
        known = run.select("step", *self.columns).drop_nulls()
        values = known.select(self.columns).to_numpy()
        return known["step"].to_numpy(), (np.log(values) if self.log else values).mean(1)

    def scores(self, run: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Steps and scores from EARLIEST on: nothing after a step has a part in its score."""
        steps, values = self.values(run)
        judged = [i for i in range(len(steps)) if steps[i] >= EARLIEST]
        pasts = [values[(steps >= steps[i] - WINDOW) & (steps < steps[i])] for i in judged]
        z = [robust_z(values[i], past) for i, past in zip(judged, pasts, strict=True)]
        return steps[judged], np.abs(z) if not self.direction else self.direction * np.array(z)


def blocks(name: str) -> tuple[str, ...]:
    """The columns of `name` at the outputs of the blocks."""
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
    """(value - median) / (1.4826 MAD) of the past; 0 where that is too short to say."""
    if len(past) < FEWEST:
        return 0.0
    center = np.median(past)
    return float((value - center) / max(1.4826 * np.median(np.abs(past - center)), FLOOR))


def threshold(detector: Detector, calm: Sequence[pl.DataFrame], share: float) -> float:
    """The lowest at which at most this share of the calm runs has an alarm."""
    highest = sorted((float(detector.scores(run)[1].max()) for run in calm), reverse=True)
    return highest[math.floor(share * len(highest))]


def first_alarm(detector: Detector, run: pl.DataFrame, above: float, since: int = EARLIEST) -> int | None:
    """The first step from `since` on at which an alarm begins, the reading before being none; null if none does."""
    steps, scores = detector.scores(run)
    on = scores > above
    begins = on & ~np.concatenate([[False], on[:-1]])
    alarms = steps[begins & (steps >= since)]
    return int(alarms[0]) if len(alarms) else None


def lead(detector: Detector, about: Run, run: pl.DataFrame, above: float) -> int:
    """Steps from the first alarm that counts to the event, the last row of `run`; 0 if nothing warned of it.

    What is read at `start` is of weights that no disturbed update has touched, and does not count.
    """
    event = run["step"][-1]
    alarm = first_alarm(detector, run, above, max(about.start + 1, event - HORIZON))
    return 0 if alarm is None else event - alarm
