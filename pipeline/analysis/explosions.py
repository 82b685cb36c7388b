"""Explosions of the loss: their steps, and whether intrinsic dimension rises before the loss does.

Training bends both curves and reduces the noise of both; this alone correlates them at every lag. Both are therefore
taken as differences of their logarithm between checkpoints (dimension: mean over blocks), minus the running median and
divided by the running spread of these differences. The lead is the larger of the correlations with the loss one and two
checkpoints later. Its null distribution is the same statistic for random orders of the blocks of dimension's steps.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis.claims import SUPPORTS, UNDECIDED, describe_claim, describe_left_out
from pipeline.analysis.curves import TOO_FEW
from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, add_because_column, load_trained_blocks
from pipeline.analysis.group_errors import center_and_scale
from pipeline.analysis.loss_spikes import MAD_TO_SD, find_spikes

SPIKE_WINDOW, SIGMAS = 128, 6.0
LEAD_LAGS, NON_LEAD_LAGS = (1, 2), (0, -1, -2)
TREND_REACH, SPREAD_REACH = 2, 8
"""Reach, on either side, of the running median (trend) and of the running median absolute deviation (spread)."""
MAX_SPREADS = 5.0
"""Clipping bound of a standardized difference, so that one spike does not dominate the correlation."""
MIN_CHECKPOINTS = 48
"""Checkpoints needed for a test: six blocks."""
BLOCK, DRAWS = 8, 9999
"""Length of the permuted blocks in steps, longer than the reach of the running median; number of permutations."""
SCREENED, NOT_NEAR = 499, 0.1
"""Number of permutations tried first, and the p above which no more are tried."""
SIGNIFICANCE_LEVEL, P_VALUE_TOLERANCE = 0.05, 1e-12
LEADS, NO_LEAD, NO_LOSS = "leads", "no_lead", "no_loss"
LOSS_NONFINITE, SPIKE, NO_EVENT, NONFINITE_FLAG = "loss_nonfinite", "spike", "none", "nonfinite_loss"
CLAIM = "dimension rises before the loss explodes"
_RESULT_TYPES: dict[str, Any] = dict.fromkeys(("event", "verdict", "claim"), pl.String())
_RESULT_TYPES |= dict.fromkeys(("events", "nonfinite"), pl.List(pl.Int64)) | {"n_events": pl.Int64(), "lag": pl.Int64()}
_RESULT_TYPES |= {"correlation": pl.Float64(), "p": pl.Float64(), "left_out": pl.List(pl.Int64()), "rows": pl.Int64()}


def is_spike(losses: Sequence[float], fewest: int = SPIKE_WINDOW) -> bool:
    """Return True if the last loss is not finite, or exceeds mean + 6 sd of the 128 losses before it.

    `losses` has the loss of every step. A finite loss with fewer than `fewest` losses before it is never a spike. For
    the losses of checkpoints, which are many steps apart, use `loss_spikes.find_spikes`.

    Source: the rule of OLMo-core's stability monitor.
    """
    *before, last = losses[-SPIKE_WINDOW - 1 :]
    if not np.isfinite(last):
        return True
    return len(before) >= fewest and bool(last > np.mean(before) + SIGMAS * np.std(before))


def compute_explosions(lake: LakeOrFrame) -> pl.DataFrame:
    """Find the spikes of the loss and test whether dimension leads the loss, one row per history.

    Columns: keys of a history, `event` (loss_nonfinite = the loss is NaN or infinite at a checkpoint; spike, none),
    `verdict` (leads = the correlation of dimension with the loss one or two checkpoints later is positive, has p below
    5 %, and exceeds the magnitudes of the correlations at the other lags from -2 to 2; no_lead; too_few = under 48
    checkpoints; no_loss), `claim` (dimension rises before the loss explodes: supports = leads, and the loss has a spike
    or is not finite; undecided; a test that finds no lead contradicts nothing), `events` (steps of the spikes:
    `pipeline.analysis.loss_spikes`), `n_events` (number of spikes and steps without a finite loss), `nonfinite` (steps
    without a finite loss), `lag` (1 or 2 checkpoints) with the larger `correlation`, `p` from random orders of the
    blocks of dimension's steps, `left_out` (steps at which a block has no dimension, which the test ignores), `rows`,
    `because`.
    Error: 4 to 6 % of simulated histories without a lead (nine kinds; 48, 80, 154 checkpoints) get the verdict leads. A
    lead over a whole history says nothing about its few explosions.
    """
    gathered = _gather_series(load_trained_blocks(lake))
    results = [_analyze_history(row) for row in gathered.iter_rows(named=True)]
    columns = [pl.Series(name, [result[name] for result in results], kind) for name, kind in _RESULT_TYPES.items()]
    found = gathered.select(HISTORY_COLUMNS).with_columns(columns)
    return sort_explosions(add_because_column(found, _sentence))


def sort_explosions(found: pl.DataFrame) -> pl.DataFrame:
    """Sort the rows of `compute_explosions`: histories with a non-finite loss first, then by model."""
    return found.sort(pl.col("event") != LOSS_NONFINITE, *HISTORY_COLUMNS, nulls_last=True)


def _gather_series(blocks: pl.DataFrame) -> pl.DataFrame:
    """One row per history: steps, losses, `nonfinite` per step, and the mean over all blocks of log dimension."""
    blocks = blocks.filter(pl.col("id_mle").is_not_null().any().over(*HISTORY_COLUMNS, "layer") | _is_nonfinite())
    log, count = pl.col("id_mle").log(), pl.col("id_mle").count()
    steps = blocks.group_by(*HISTORY_COLUMNS, "step").agg(
        pl.col("loss").drop_nulls().first(), nonfinite=_is_nonfinite().any(), log_id=log.mean(), _known=count
    )
    complete = pl.col("_known") == pl.col("_known").max().over(HISTORY_COLUMNS)
    steps = steps.with_columns(log_id=pl.when(complete).then("log_id")).drop("_known")
    series = steps.sort("step").group_by(HISTORY_COLUMNS, maintain_order=True)
    return series.agg("step", "loss", "nonfinite", "log_id").sort(HISTORY_COLUMNS)


def _is_nonfinite() -> pl.Expr:
    stated = pl.col("flags").list.contains(NONFINITE_FLAG) & pl.col("loss").is_null()
    return stated.fill_null(False) | (~pl.col("loss").is_finite()).fill_null(False)


class Lead(NamedTuple):
    """Largest correlation of dimension with a later loss."""

    lag: int
    """Checkpoints by which dimension precedes the loss."""
    correlation: float
    p_value: float
    exceeds_other_lags: bool
    """True if `correlation` exceeds the magnitudes of the correlations at the other lags from -2 to 2."""

    @property
    def verdict(self) -> str:
        significant = self.correlation > 0 and self.p_value < SIGNIFICANCE_LEVEL
        return LEADS if significant and self.exceeds_other_lags else NO_LEAD


def estimate_lead(log_id: np.ndarray, log_loss: np.ndarray) -> Lead:
    """Estimate the lead of dimension over the loss.

    The permutations rotate dimension and shuffle its blocks, which keeps the autocorrelation within a block;
    scipy.stats.permutation_test has none. The smallest p is 1 / (DRAWS + 1).

    Args:
        log_id: [checkpoints], in training order.
        log_loss: [checkpoints], in training order.
    """
    dimension, loss = (center_and_scale(standardize_steps(series))[0] for series in (log_id, log_loss))
    at = {lag: float(dimension @ np.roll(loss, -lag)) for lag in (*LEAD_LAGS, *NON_LEAD_LAGS)}
    lag = max(LEAD_LAGS, key=lambda lag: at[lag])
    p = _permutation_p(dimension, loss, at[lag], SCREENED)
    p = _permutation_p(dimension, loss, at[lag], DRAWS) if p <= NOT_NEAR else p
    return Lead(lag, at[lag], p, at[lag] > max(abs(other) for name, other in at.items() if name != lag))


def _permutation_p(dimension: np.ndarray, loss: np.ndarray, correlation: float, draws: int) -> float:
    """Share of random orders of `dimension`, its own included, with at least this correlation at a lag of LEAD_LAGS."""
    orders = shuffle_blocks(len(loss), draws, np.random.default_rng([len(loss), draws]))
    drawn = np.max([dimension[orders] @ np.roll(loss, -lag) for lag in LEAD_LAGS], axis=0)
    return float((1 + (drawn >= correlation - P_VALUE_TOLERANCE).sum()) / (1 + draws))


def shuffle_blocks(length: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """Indices, [draws, length], that rotate a series and then shuffle its blocks of BLOCK values."""
    keys = random.random((draws, -(-length // BLOCK)))[:, np.arange(length) // BLOCK]
    order = np.argsort(keys, axis=1, kind="stable")
    return (order + random.integers(length, size=(draws, 1))) % length


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


def _analyze_history(row: dict[str, Any]) -> dict[str, Any]:
    """Find the spikes of one history and test its lead; return the values of the columns in _RESULT_TYPES."""
    points = list(zip(row["step"], row["loss"], row["log_id"], row["nonfinite"], strict=True))
    nonfinite = [step for step, *_, broken in points if broken]
    finite = [point for point in points if point[1] is not None and not point[3]]
    spikes = [finite[i][0] for i in find_spikes([point[0] for point in finite], [point[1] for point in finite])]
    event = LOSS_NONFINITE if nonfinite else SPIKE if spikes else NO_EVENT
    result = {**dict.fromkeys(_RESULT_TYPES), "event": event, "events": spikes, "nonfinite": nonfinite}
    result |= {"n_events": len(spikes) + len(nonfinite)}
    result |= {"rows": len(points), "left_out": [point[0] for point in finite if point[2] is None], "claim": UNDECIDED}
    if not finite:
        return result | {"verdict": NO_LOSS}
    known = [point for point in finite if point[2] is not None]
    if len(known) < MIN_CHECKPOINTS:
        return result | {"verdict": TOO_FEW, "rows": len(known) or len(points)}
    lead = estimate_lead(np.array([point[2] for point in known]), np.log([point[1] for point in known]))
    tested = {"lag": lead.lag, "correlation": lead.correlation, "p": lead.p_value, "rows": len(known)}
    claim = SUPPORTS if lead.verdict == LEADS and event != NO_EVENT else UNDECIDED
    return result | tested | {"verdict": lead.verdict, "claim": claim}


def _sentence(row: dict[str, Any]) -> str:
    subject = f"{row['model']} on {row['corpus']}: "
    if row["nonfinite"]:
        subject += f"the loss is not finite at {_list(row['nonfinite'])}; "
    if row["verdict"] == NO_LOSS:
        return f"{subject}no checkpoint has a loss." if not row["nonfinite"] else f"{subject}no loss is finite."
    spikes = f"{subject}the loss spikes at {_list(row['events']) or 'no step'}"
    if row["verdict"] == TOO_FEW:
        return f"{spikes}; {row['rows']} checkpoints are too few to test for a lead ({MIN_CHECKPOINTS} needed)."
    text = "rises significantly before the loss" if row["verdict"] == LEADS else "does not significantly lead the loss"
    test = f"correlation {row['correlation']:.2f} at lag {row['lag']}, p {row['p']:.3f}"
    left = f"{describe_left_out(row['left_out'], 'step', 'd')}"
    return f"{spikes}; dimension {text}: {test}. {describe_claim(row['claim'], CLAIM)}{left}"


def _list(steps: Sequence[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps)
