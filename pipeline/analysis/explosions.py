"""Explosions of the loss: their steps, and whether intrinsic dimension rises before the loss does.

Training bends both curves and reduces the noise of both, which alone correlates them at every lag. Both are therefore
taken as differences of their logarithm between checkpoints (dimension: mean over blocks), minus the running median and
divided by the running spread of these differences. The lead is the larger of the correlations with the loss one and two
checkpoints later. Its null distribution is the same statistic for every circular shift of dimension against the loss.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis.frames import HISTORY_COLUMNS, TOO_FEW, LakeOrFrame, add_because_column, load_trained_blocks

SPIKE_WINDOW, SIGMAS = 128, 6.0
MIN_LOSSES_BEFORE_SPIKE = 8
"""Losses needed before a spike; fewer than SPIKE_WINDOW, since a lake has fewer losses than a training log."""
LEAD_LAGS, NON_LEAD_LAGS = (1, 2), (0, -1, -2)
TREND_REACH, SPREAD_REACH = 2, 8
"""Reach, on either side, of the running median (trend) and of the running median absolute deviation (spread)."""
MAX_SPREADS = 5.0
"""Clipping bound of a standardized difference, so that one spike does not dominate the correlation."""
MAD_TO_SD = 1.4826
MIN_CHECKPOINTS = 48
"""Checkpoints needed for a test: two shifts always tie with the truth, one per lag, and must be under 5 % of all."""
SIGNIFICANCE_LEVEL, P_VALUE_TOLERANCE = 0.05, 1e-12
LEADS, NO_LEAD, NO_LOSS = "leads", "no_lead", "no_loss"
_RESULT_TYPES = {"verdict": pl.String, "events": pl.List(pl.Int64), "lag": pl.Int64, "correlation": pl.Float64}
_RESULT_TYPES |= {"p": pl.Float64, "rows": pl.Int64}


def is_spike(losses: Sequence[float], fewest: int = SPIKE_WINDOW) -> bool:
    """Return True if the last loss is not finite or exceeds mean + 6 standard deviations of the 128 before it.

    A finite loss with fewer than `fewest` losses before it is never a spike.

    Source: the rule of OLMo-core's stability monitor.
    """
    *before, last = losses[-SPIKE_WINDOW - 1 :]
    if not np.isfinite(last):
        return True
    return len(before) >= fewest and bool(last > np.mean(before) + SIGMAS * np.std(before))


def compute_explosions(lake: LakeOrFrame) -> pl.DataFrame:
    """Find the spikes of the loss and test whether dimension leads the loss, one row per history.

    Columns: keys of a history, `verdict` (leads = the correlation of dimension with the loss one or two checkpoints
    later is positive, has p below 5 %, and exceeds those at lag 0, -1 and -2; no_lead; too_few = under 48 checkpoints;
    no_loss), `events` (steps of the spikes), `lag` in checkpoints and `correlation` where it is largest, `p` from
    circular shifts of one series against the other, `rows`, `because`.
    Error: of simulated histories without a lead (random walks, shared decay, noise that shrinks, 80 checkpoints) up to
    6 % get the verdict leads. A lead over the whole history says nothing about its explosions, which are too few.
    """
    steps = load_trained_blocks(lake).drop_nulls("id_mle").group_by(*HISTORY_COLUMNS, "step")
    series = steps.agg(pl.col("loss").first(), log_id=pl.col("id_mle").log().mean())
    gathered = series.sort("step").group_by(HISTORY_COLUMNS, maintain_order=True).agg("step", "loss", "log_id")
    results = [_analyze_history(row["step"], row["loss"], row["log_id"]) for row in gathered.iter_rows(named=True)]
    columns = [pl.Series(name, [result[name] for result in results], kind) for name, kind in _RESULT_TYPES.items()]
    found = gathered.drop("step", "loss", "log_id").with_columns(columns).sort(HISTORY_COLUMNS)
    return add_because_column(found, _sentence)


class Lead(NamedTuple):
    """Largest correlation of dimension with a later loss."""

    lag: int
    """Checkpoints by which dimension precedes the loss."""
    correlation: float
    p_value: float
    exceeds_earlier_lags: bool
    """True if the correlation exceeds those with the loss at the same checkpoint and one and two earlier."""

    @property
    def verdict(self) -> str:
        significant = self.correlation > 0 and self.p_value < SIGNIFICANCE_LEVEL
        return LEADS if significant and self.exceeds_earlier_lags else NO_LEAD


def estimate_lead(log_id: np.ndarray, log_loss: np.ndarray) -> Lead:
    """Estimate the lead of dimension over the loss.

    Own permutation test: circular shifts keep each series' autocorrelation; scipy.stats.permutation_test has none.

    Args:
        log_id: [checkpoints], in training order.
        log_loss: [checkpoints], likewise.
    """
    dimension, loss = standardize_steps(log_id), standardize_steps(log_loss)
    at = np.array([_correlation(np.roll(dimension, shift), loss) for shift in range(len(loss))])
    best = np.max([np.roll(at, -lag) for lag in LEAD_LAGS], axis=0)  # [shifts], over the lags; shift 0 is the data
    lag = max(LEAD_LAGS, key=lambda lag: at[lag])
    p = float((best >= best[0] - P_VALUE_TOLERANCE).mean())
    return Lead(lag, float(at[lag]), p, bool(at[lag] > at[list(NON_LEAD_LAGS)].max()))


def standardize_steps(series: np.ndarray) -> np.ndarray:
    """[n] -> [n - 1]: differences minus their running median, in units of the running spread; 0 if the spread is 0."""
    steps = np.diff(series)
    residual = steps - _running_median(steps, TREND_REACH)
    spread = MAD_TO_SD * _running_median(np.abs(residual), SPREAD_REACH)
    scaled = np.divide(residual, spread, out=np.zeros_like(residual), where=spread > 0)
    return np.clip(scaled, -MAX_SPREADS, MAX_SPREADS)


def _running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """[n] -> [n]: median of each value and `reach` values on either side; mirrored beyond the ends."""
    # scipy.ndimage.median_filter differs in short series and does not propagate NaN.
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, mode="reflect"), 2 * reach + 1)
    return np.median(windows, axis=1)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson correlation; 0 if either series is constant."""
    return float(np.corrcoef(first, second)[0, 1]) if first.std() > 0 and second.std() > 0 else 0.0


def _analyze_history(steps: list[int], losses: list[float | None], log_id: list[float]) -> dict[str, Any]:
    """Values of _RESULT_TYPES, from the checkpoints that have a loss."""
    known = [(step, loss, value) for step, loss, value in zip(steps, losses, log_id, strict=True) if loss is not None]
    no_result = {**dict.fromkeys(_RESULT_TYPES), "rows": len(steps), "events": []}
    if not known:
        return no_result | {"verdict": NO_LOSS}
    steps_with_loss, loss, values = zip(*known, strict=True)
    spikes = [step for i, step in enumerate(steps_with_loss) if is_spike(loss[: i + 1], MIN_LOSSES_BEFORE_SPIKE)]
    if len(known) < MIN_CHECKPOINTS:
        return no_result | {"verdict": TOO_FEW, "events": spikes}
    lead = estimate_lead(np.array(values), np.log(loss))
    tested = {"lag": lead.lag, "correlation": lead.correlation, "p": lead.p_value}
    return {"verdict": lead.verdict, "events": spikes, "rows": len(known)} | tested


def _sentence(row: dict[str, Any]) -> str:
    subject = f"{row['model']} on {row['corpus']}"
    if row["verdict"] == NO_LOSS:
        return f"{subject}: no checkpoint has a loss."
    spikes = f"{subject}: the loss spikes at {', '.join(f'{step:,}' for step in row['events']) or 'no step'}"
    if row["verdict"] == TOO_FEW:
        return f"{spikes}; {row['rows']} checkpoints are too few to test for a lead ({MIN_CHECKPOINTS} needed)."
    text = "rises significantly before the loss" if row["verdict"] == LEADS else "does not significantly lead the loss"
    return f"{spikes}; dimension {text}: correlation {row['correlation']:.2f} at lag {row['lag']}, p {row['p']:.3f}."
