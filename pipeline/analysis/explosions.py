"""Explosions of the loss: when they came, and whether intrinsic dimension rose before the loss did.

Training bends both curves and calms both, which alone correlates them at every lag. So both are taken as steps of their
logarithm from checkpoint to checkpoint (dimension: mean over blocks) less the median of the steps around, over the
spread of those around. The lead is their correlation with the loss one or two checkpoints later, the larger of the two.
Its null: the same with the dimension turned round against the loss by every possible number of checkpoints.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    TOO_FEW,
    LakeOrFrame,
    add_because_column,
    load_layer_rows,
    select_block_rows,
    select_history_rows,
)

SPIKE_WINDOW, SIGMAS = 128, 6.0
MIN_LOSSES_BEFORE_SPIKE = 8
"""Losses that a spike must stand out from; a lake holds fewer than a training log."""
LEAD_LAGS, NON_LEAD_LAGS = (1, 2), (0, -1, -2)
TREND_REACH, SPREAD_REACH = 2, 8
"""Steps on either side whose median is the trend, and whose median distance from it is the spread."""
MAX_SPREADS = 5.0
"""Spreads beyond which a step counts no more: one spike must not be all there is to a correlation."""
MAD_TO_SD = 1.4826
MIN_CHECKPOINTS = 48
"""Checkpoints: two turns always do as well, one for each lag, and must be fewer than 5 % of all."""
SIGNIFICANCE_LEVEL, P_VALUE_TOLERANCE = 0.05, 1e-12
LEADS, NO_LEAD, NO_LOSS = "leads", "no_lead", "no_loss"
_FOUND = {"verdict": pl.String, "events": pl.List(pl.Int64), "lag": pl.Int64, "correlation": pl.Float64} | {
    "p": pl.Float64,
    "rows": pl.Int64,
}


def is_spike(losses: Sequence[float], fewest: int = SPIKE_WINDOW) -> bool:
    """Whether the last loss exceeds mean + 6 standard deviations of the 128 before it.

    One that is not finite is a spike; with fewer than `fewest` before it none else is.

    Source: the rule of OLMo-core's stability monitor.
    """
    *before, last = losses[-SPIKE_WINDOW - 1 :]
    if not np.isfinite(last):
        return True
    return len(before) >= fewest and bool(last > np.mean(before) + SIGMAS * np.std(before))


def compute_explosions(lake: LakeOrFrame) -> pl.DataFrame:
    """Spikes of the loss and the lead of dimension, one row per history.

    Columns: keys of a history, `verdict` (leads: where dimension rises more than around, the loss does so one or two
    checkpoints later, p below 5 %, and closer than at once or before; no_lead; too_few under 48 checkpoints; no_loss),
    `events` (steps of the spikes), `lag` in checkpoints and `correlation` where it is largest, `p` by turning one
    series against the other, `rows`, `because`.
    Error: of simulated histories without a lead (random walks, shared decay, noise that shrinks, 80 checkpoints) up to
    6 % are said to have one. A lead over the whole history says nothing about its explosions: these are too few.
    """
    kept = select_block_rows(select_history_rows(load_layer_rows(lake))).drop_nulls("id_mle")
    series = kept.group_by(*HISTORY_COLUMNS, "step").agg(
        pl.col("loss").first(), pl.col("id_mle").log().mean().alias("log_id")
    )
    gathered = series.sort("step").group_by(HISTORY_COLUMNS, maintain_order=True).agg("step", "loss", "log_id")
    found = [_judged(row["step"], row["loss"], row["log_id"]) for row in gathered.iter_rows(named=True)]
    columns = [pl.Series(name, [one[name] for one in found], kind) for name, kind in _FOUND.items()]
    return add_because_column(
        gathered.drop("step", "loss", "log_id").with_columns(columns).sort(HISTORY_COLUMNS), _sentence
    )


class Lead(NamedTuple):
    """The largest correlation of dimension with a later loss."""

    lag: int
    """In checkpoints."""
    correlation: float
    p_value: float
    exceeds_earlier_lags: bool
    """Whether it exceeds the correlations with the loss at the same checkpoint and before."""

    @property
    def verdict(self) -> str:
        return (
            LEADS
            if self.correlation > 0 and self.p_value < SIGNIFICANCE_LEVEL and self.exceeds_earlier_lags
            else NO_LEAD
        )


def estimate_lead(log_id: np.ndarray, log_loss: np.ndarray) -> Lead:
    """Whether dimension rises before the loss does.

    Args:
        log_id: [checkpoints], in training order, and likewise `log_loss`.
    """
    dimension, loss = standardize_steps(log_id), standardize_steps(log_loss)
    at = np.array([_correlation(np.roll(dimension, turn), loss) for turn in range(len(loss))])
    best = np.max([np.roll(at, -lag) for lag in LEAD_LAGS], axis=0)  # of each turn, over the lags; turn 0 is the truth
    lag = max(LEAD_LAGS, key=lambda lag: at[lag])
    p = float((best >= best[0] - P_VALUE_TOLERANCE).mean())
    return Lead(lag, float(at[lag]), p, bool(at[lag] > at[list(NON_LEAD_LAGS)].max()))


def standardize_steps(series: np.ndarray) -> np.ndarray:
    """[n] -> [n - 1]: steps without their trend, in units of their spread around; 0 where nothing varies."""
    steps = np.diff(series)
    beside = steps - _running_median(steps, TREND_REACH)
    spread = MAD_TO_SD * _running_median(np.abs(beside), SPREAD_REACH)
    return np.clip(np.divide(beside, spread, out=np.zeros_like(beside), where=spread > 0), -MAX_SPREADS, MAX_SPREADS)


def _running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """[n] -> [n]: of each value and `reach` on either side; beyond the ends they are mirrored."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, mode="reflect"), 2 * reach + 1)
    return np.median(windows, axis=1)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """0 where either does not vary."""
    return float(np.corrcoef(first, second)[0, 1]) if first.std() > 0 and second.std() > 0 else 0.0


def _judged(steps: list[int], losses: list[float | None], log_id: list[float]) -> dict[str, Any]:
    """Of the checkpoints that have a loss."""
    known = [(step, loss, value) for step, loss, value in zip(steps, losses, log_id, strict=True) if loss is not None]
    nothing = {**dict.fromkeys(_FOUND), "rows": len(steps), "events": []}
    if not known:
        return nothing | {"verdict": NO_LOSS}
    at, loss, values = zip(*known, strict=True)
    spikes = [step for i, step in enumerate(at) if is_spike(loss[: i + 1], MIN_LOSSES_BEFORE_SPIKE)]
    if len(known) < MIN_CHECKPOINTS:
        return nothing | {"verdict": TOO_FEW, "events": spikes}
    found = estimate_lead(np.array(values), np.log(loss))
    return {
        "verdict": found.verdict,
        "events": spikes,
        "lag": found.lag,
        "correlation": found.correlation,
        "p": found.p_value,
        "rows": len(known),
    }


def _sentence(row: dict[str, Any]) -> str:
    about = f"{row['model']} on {row['corpus']}"
    if row["verdict"] == NO_LOSS:
        return f"{about}: no checkpoint has a loss."
    seen = f"{about}: the loss spikes at {', '.join(f'{step:,}' for step in row['events']) or 'no step'}"
    if row["verdict"] == TOO_FEW:
        return f"{seen}; {row['rows']} checkpoints are too few to tell what leads what."
    said = "rises before the loss" if row["verdict"] == LEADS else "does not rise before the loss"
    at = f"correlation {row['correlation']:.2f} at {row['lag']} checkpoints, p {row['p']:.3f}"
    return f"{seen}; dimension {said}: {at}."
