"""Explosions of the loss: their steps, and whether intrinsic dimension rises before the loss does.

Over training, the curves of loss and dimension bend and their noise decreases, which alone correlates them at every
lag. Both curves are therefore standardized: the differences of the logarithm between consecutive checkpoints, minus
their running median, divided by their running spread. The logarithm of dimension is its mean over the blocks of the
model. The lead is the larger of two correlations, those of dimension with the loss one and two checkpoints later. Its
null distribution has the same statistic for random permutations of dimension, in which segments of 8 consecutive
differences stay together.
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
"""Number of differences on either side that enter the running median (trend) and the running median absolute deviation
(spread)."""
MAX_SPREADS = 5.0
"""Absolute value at which standardized differences are clipped, so that one spike does not dominate a correlation."""
MIN_CHECKPOINTS = 48
"""Number of checkpoints that a test for a lead needs: six segments."""
BLOCK, DRAWS = 8, 9999
"""Number of differences in a permuted segment, which is longer than the window of the running median; and number of
permutations."""
SCREENED, NOT_NEAR = 499, 0.1
"""Number of permutations that are drawn first, and the p above which this p is final and DRAWS are not drawn."""
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
    """Find the spikes of the loss and test whether dimension leads the loss.

    Columns, one row per history:

    - the keys of a history
    - `event`: `loss_nonfinite` if the loss is NaN or infinite at a checkpoint; else `spike` if the loss has a spike;
      else `none`
    - `verdict`:
        - `leads`: the correlation of dimension with the loss one or two checkpoints later is positive, has p below 5 %,
          and exceeds the absolute correlations at the other lags from -2 to 2.
        - `no_lead`: one of these conditions fails.
        - `too_few`: there are fewer than 48 checkpoints with loss and dimension.
        - `no_loss`: no checkpoint has a finite loss.
    - `claim` (dimension rises before the loss explodes): `supports` for leads with an event, else `undecided`; a test
      that finds no lead contradicts nothing
    - `events`: steps of the spikes (`loss_spikes.find_spikes`)
    - `nonfinite`: steps at which the loss is not finite
    - `n_events`: number of steps in `events` and `nonfinite`
    - `lag`: 1 or 2 checkpoints, whichever has the larger correlation
    - `correlation`, `p`: that correlation, and its p from random permutations
    - `left_out`: steps with a loss at which a block has no dimension; the test ignores them
    - `rows`: number of checkpoints in the test, or of all checkpoints if there was no test
    - `because`: the result in one or two sentences

    Error: 4 to 6 % of simulated histories without a lead (nine kinds; 48, 80, 154 checkpoints) get the verdict leads. A
    lead over a whole history says nothing about its few explosions.
    """
    gathered = _gather_series(load_trained_blocks(lake))
    results = [_analyze_history(row) for row in gathered.iter_rows(named=True)]
    columns = [pl.Series(name, [result[name] for result in results], kind) for name, kind in _RESULT_TYPES.items()]
    found = gathered.select(HISTORY_COLUMNS).with_columns(columns)
    return sort_explosions(add_because_column(found, _sentence))


def sort_explosions(found: pl.DataFrame) -> pl.DataFrame:
    """Sort the rows of `compute_explosions` by model, with all histories that have a non-finite loss first."""
    return found.sort(pl.col("event") != LOSS_NONFINITE, *HISTORY_COLUMNS, nulls_last=True)


def _gather_series(blocks: pl.DataFrame) -> pl.DataFrame:
    """Return one row per history, with lists over its steps: `step`, `loss`, `nonfinite` and `log_id`.

    `nonfinite` is true if the loss is not finite. `log_id` is the mean over all blocks of log dimension, null if a
    block has none.
    """
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
    """The larger one of the correlations of dimension with the loss one and two checkpoints later."""

    lag: int
    """Number of checkpoints by which dimension precedes the loss."""
    correlation: float
    p_value: float
    exceeds_other_lags: bool
    """True if `correlation` exceeds the absolute correlations at all other lags from -2 to 2."""

    @property
    def verdict(self) -> str:
        significant = self.correlation > 0 and self.p_value < SIGNIFICANCE_LEVEL
        return LEADS if significant and self.exceeds_other_lags else NO_LEAD


def estimate_lead(log_id: np.ndarray, log_loss: np.ndarray) -> Lead:
    """Estimate the lead of dimension over the loss.

    Each permutation rotates the series of dimension and shuffles its segments of BLOCK differences, which keeps the
    autocorrelation within a segment; scipy.stats.permutation_test has no such permutations. The smallest possible p is
    1 / (DRAWS + 1).

    Args:
        log_id: log of dimension, [checkpoints], in training order.
        log_loss: log of the loss, [checkpoints], in training order.
    """
    dimension, loss = (center_and_scale(standardize_steps(series))[0] for series in (log_id, log_loss))
    at = {lag: float(dimension @ np.roll(loss, -lag)) for lag in (*LEAD_LAGS, *NON_LEAD_LAGS)}
    lag = max(LEAD_LAGS, key=lambda lag: at[lag])
    p = _permutation_p(dimension, loss, at[lag], SCREENED)
    p = _permutation_p(dimension, loss, at[lag], DRAWS) if p <= NOT_NEAR else p
    return Lead(lag, at[lag], p, at[lag] > max(abs(other) for name, other in at.items() if name != lag))


def _permutation_p(dimension: np.ndarray, loss: np.ndarray, correlation: float, draws: int) -> float:
    """Return the share of permutations of `dimension` that have at least this correlation at a lag of LEAD_LAGS.

    The given order counts as one of the permutations.
    """
    orders = shuffle_blocks(len(loss), draws, np.random.default_rng([len(loss), draws]))
    drawn = np.max([dimension[orders] @ np.roll(loss, -lag) for lag in LEAD_LAGS], axis=0)
    return float((1 + (drawn >= correlation - P_VALUE_TOLERANCE).sum()) / (1 + draws))


def shuffle_blocks(length: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """Return indices [draws, length], each row of which rotates a series and shuffles its segments of BLOCK values."""
    keys = random.random((draws, -(-length // BLOCK)))[:, np.arange(length) // BLOCK]
    order = np.argsort(keys, axis=1, kind="stable")
    return (order + random.integers(length, size=(draws, 1))) % length


def standardize_steps(series: np.ndarray) -> np.ndarray:
    """Return the standardized differences of a series: [n] -> [n - 1].

    These are the differences minus their running median, divided by their running spread (0 where the spread is 0), and
    clipped at MAX_SPREADS.
    """
    steps = np.diff(series)
    residual = steps - _running_median(steps, TREND_REACH)
    spread = MAD_TO_SD * _running_median(np.abs(residual), SPREAD_REACH)
    scaled = np.divide(residual, spread, out=np.zeros_like(residual), where=spread > 0)
    return np.clip(scaled, -MAX_SPREADS, MAX_SPREADS)


def _running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the median of each value and `reach` values on either side: [n] -> [n]; the ends are mirrored."""
    # scipy.ndimage.median_filter returns other values for short series and does not propagate NaN.
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
