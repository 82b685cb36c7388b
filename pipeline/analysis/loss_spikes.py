"""Spikes of the loss over irregular checkpoints, each judged against its own neighbourhood in training.

A lake has the loss at checkpoints whose spacing ranges from one step to thousands. A window with a fixed number of
checkpoints can therefore contain the whole initial descent. Here each loss is compared with the value that its
neighbours on both sides predict by interpolation over the logarithm of the step. The scale of its residual is the
median absolute deviation of the residuals within a window in the logarithm of the step.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.analysis.simultaneous_test import Floats

MIN_DEVIATIONS = 12.0
"""Smallest excess of a spike over its prediction, in standard deviations of the residuals in its window. The value was
chosen on simulated heavy-tailed noise."""
MIN_EXCESS = 0.1
"""Smallest excess of a spike over its prediction, in nats."""
WINDOW, MIN_NEIGHBOURS = float(np.log(8)), 6
"""Reach of the window on either side, in log(step + 1); and number of residuals to which a window with fewer of them is
widened."""
MIN_BEFORE = 4
"""Number of losses that must come before a spike."""
MAD_TO_SD = 1.4826
REACHES = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Distances, in checkpoints, to the left and to the right neighbour for each of four interpolations. Their median
predicts a loss."""


def find_spikes(steps: Sequence[int], losses: Sequence[float]) -> list[int]:
    """Return the indices of the losses that are spikes.

    A spike exceeds two values: the prediction from its neighbours, and the smaller of the two losses before it. It
    exceeds both by more than 12 standard deviations of its window and by more than 0.1 nats. The prediction of the last
    loss is the median of the three losses before it.

    Args:
        steps: steps of the checkpoints, increasing.
        losses: finite losses, one per step.

    Error: `pipeline/analysis/findings.md` has the measured rates.
    """
    loss, at = np.array(losses, float), np.log1p(np.array(steps, float))
    if len(loss) <= MIN_BEFORE:
        return []
    predicted = _predict(loss, at)
    before = np.minimum(_shift(loss, 1), _shift(loss, 2))
    excess = np.fmin(loss - predicted, loss - before)
    spikes = excess > np.maximum(MIN_DEVIATIONS * _scale(loss, at, predicted), MIN_EXCESS)
    return [int(i) for i in np.flatnonzero(spikes) if i >= MIN_BEFORE]


def _shift(loss: Floats, by: int) -> Floats:
    return np.concatenate([np.full(by, np.nan), loss[:-by]])


def _predict(loss: Floats, at: Floats) -> Floats:
    """Return the prediction of each loss, the median of interpolations between its neighbours, as an array [..., n].

    The first loss has no left neighbour, and its prediction is NaN. The last loss has no right neighbour, and its
    prediction is the median of the three losses before it.
    """
    n = loss.shape[-1]
    between = np.full((len(REACHES), *loss.shape), np.nan)
    for reach, (left, right) in enumerate(REACHES):
        i = np.arange(left, n - right)
        share = (at[i] - at[i - left]) / (at[i + right] - at[i - left])
        between[reach][..., i] = (1 - share) * loss[..., i - left] + share * loss[..., i + right]
    between[..., 0], between[..., -1] = 0, np.median(loss[..., -4:-1], axis=-1)
    predicted = np.nanmedian(between, axis=0)
    predicted[..., 0] = np.nan
    return predicted


def _scale(loss: Floats, at: Floats, predicted: Floats) -> Floats:
    """Return the estimated standard deviation of the residuals in the window of each loss.

    For this estimate the loss itself is replaced by its prediction, so that a spike does not widen its own scale.
    """
    n = len(loss)
    each = np.arange(n)
    without = np.where(np.eye(n, dtype=bool), np.where(np.isnan(predicted), loss, predicted), loss)
    smooth = _interpolate_cubic(without, at)
    residual = np.abs(without - np.where(np.isnan(smooth), _predict(without, at), smooth))  # [spike, n]
    residual[each, each], residual[:, 0] = np.nan, np.nan
    apart = np.where(np.isnan(residual), np.inf, np.abs(at - at[:, None]))
    enough = np.sort(apart, axis=1)[:, min(MIN_NEIGHBOURS, n - 2) - 1][:, None]
    inside = np.where((apart <= np.maximum(WINDOW, enough)) & np.isfinite(apart), residual, np.nan)
    return MAD_TO_SD * np.nanmedian(inside, axis=1)


def _interpolate_cubic(loss: Floats, at: Floats) -> Floats:
    """Return the cubic interpolation of each loss from two neighbours on either side, as an array [..., n].

    Unlike a linear one, it follows the bend of a descent. The first two and the last two values are NaN.
    """
    i = np.arange(2, loss.shape[-1] - 2)
    places = [at[i + by] for by in (-2, -1, 1, 2)]
    smooth = np.full(loss.shape, np.nan)
    smooth[..., i] = 0
    for by, place in zip((-2, -1, 1, 2), places, strict=True):
        others = [other for other in places if other is not place]
        weight = np.prod([(at[i] - other) / (place - other) for other in others], axis=0)
        smooth[..., i] += weight * loss[..., i + by]
    return smooth
