"""Correlation, over the models of a lake, of the depth at which dimension starts to rise with the loss (Cheng et al.
2025)."""

from itertools import permutations
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.curves import TOO_FEW
from pipeline.analysis.depth import WORDS, compute_depth
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LABEL_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    run_name,
    select_newest_rows,
)
from pipeline.analysis.simultaneous_test import Floats

MIN_MODELS = 5
"""Number of models that a test needs. With four models, even the most extreme order has p above 5 %."""
MAX_EXACT, DRAWS = 7, 20_000
"""Largest number of models for which every permutation is tried, and number of random permutations for more models."""
SIGNIFICANCE_LEVEL, TOLERANCE = 0.05, 1e-9
EARLIER, LATER, UNRELATED = "earlier_is_better", "later_is_better", "unrelated"
CLAIM = "models whose dimension starts to rise in earlier layers have a lower loss"
_TYPES: dict[str, Any] = dict.fromkeys(("corpus", "recipe", "verdict", "claim"), pl.String())
_TYPES |= dict.fromkeys(("correlation", "correlation_low", "correlation_high", "p"), pl.Float64())
_TYPES |= {"models": pl.List(pl.String()), "left_out": pl.List(pl.String()), "rows": pl.Int64()}


def compute_onset(lake: LakeOrFrame) -> pl.DataFrame:
    """Correlate the depth at which dimension starts to rise to its peak with the loss, over the decoders of a lake.

    Only models that read the same tokens are compared, since a loss per token depends on the tokenizer. If a corpus and
    recipe have several sets of models with equal contexts, the largest set is used.

    Columns, one row per corpus and recipe:

    - `corpus`, `recipe`
    - `verdict`:
        - `earlier_is_better`: the correlation is positive, with p below 5 %.
        - `later_is_better`: the correlation is negative, with p below 5 %.
        - `unrelated`: p is 5 % or more, or all onsets or all losses are equal.
        - `too_few`: fewer than five models that read the same tokens have a peak of dimension and a loss.
    - `claim` (models with an earlier onset have a lower loss): `supports` for earlier_is_better, `contradicts` for
      later_is_better, else `undecided`
    - `correlation`, `correlation_low`, `correlation_high`: Spearman's rank correlation of onset and loss, with its
      approximate 95 % interval (Bonett & Wright 2000)
    - `p`: two-sided p of the correlation over permutations
    - `models`: names of the compared models
    - `left_out`: names of the models that have no peak or no loss, or read other tokens
    - `rows`: number of rows of all decoders of this corpus and recipe
    - `because`: the result in one or two sentences
    """
    frame = select_newest_rows(load_layer_rows(lake)).filter(pl.col("kind") == "decoder")
    points = _gather_models(frame)
    parts = points.partition_by("corpus", "recipe", maintain_order=True)
    table = pl.DataFrame([_correlate(part) for part in parts], schema=_TYPES).sort("corpus", "recipe")
    return add_because_column(table, _sentence)


def _gather_models(frame: pl.DataFrame) -> pl.DataFrame:
    """Return one row per history with its `onset`, `loss`, `contexts_digest` and number of `layers`.

    `onset` is null without a peak of dimension, and `loss` without a loss.
    """
    losses = frame.group_by(HISTORY_COLUMNS).agg(
        pl.col("loss").drop_nulls().first(), pl.col("contexts_digest").first(), pl.len().alias("layers")
    )
    depth = compute_depth(frame).drop(LABEL_COLUMNS)
    peaked = pl.col("verdict").is_in(list(WORDS.peaked))
    depth = depth.select(*HISTORY_COLUMNS, onset=pl.when(peaked).then("onset"))
    return losses.join(depth, on=HISTORY_COLUMNS, how="left", nulls_equal=True).sort(HISTORY_COLUMNS)


def _correlate(part: pl.DataFrame) -> dict[str, Any]:
    known = part.drop_nulls(["onset", "loss", "contexts_digest"])
    largest = known["contexts_digest"].value_counts(sort=True).head(1)["contexts_digest"].to_list()
    known = known.filter(pl.col("contexts_digest").is_in(largest))
    names = _name(known)
    row: dict[str, Any] = {"corpus": part["corpus"][0], "recipe": part["recipe"][0], "models": names}
    row |= {"left_out": sorted({*_name(part)} - {*names}), "rows": int(part["layers"].sum()), "claim": UNDECIDED}
    if known.height < MIN_MODELS:
        return row | {"verdict": TOO_FEW}
    onset, loss = (known[name].rank().to_numpy() for name in ("onset", "loss"))
    if np.ptp(onset) == 0 or np.ptp(loss) == 0:
        return row | {"verdict": UNRELATED}
    correlation, p = measure_rank_correlation(onset, loss)
    row |= {"correlation": correlation, "p": p}
    row |= dict(zip(("correlation_low", "correlation_high"), _interval(correlation, known.height), strict=True))
    if p >= SIGNIFICANCE_LEVEL:
        return row | {"verdict": UNRELATED}
    if correlation > 0:
        return row | {"verdict": EARLIER, "claim": SUPPORTS}
    return row | {"verdict": LATER, "claim": CONTRADICTS}


def _name(part: pl.DataFrame) -> list[str]:
    return part.select(name=run_name())["name"].sort().to_list()


def measure_rank_correlation(first: Floats, second: Floats) -> tuple[float, float]:
    """Return the correlation of two series of ranks, which is Spearman's, and its two-sided p.

    The p is the share of permutations of the second series for which the absolute correlation is at least as large. Up
    to MAX_EXACT values, all permutations are tried. For more values, these are the given order and DRAWS random
    permutations with a fixed seed. SciPy's p of a rank correlation is an approximation for many values.
    """
    a, b = (each - each.mean() for each in (first, second))
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    if len(b) <= MAX_EXACT:
        shuffled = np.array(list(permutations(b)))
    else:
        random = np.random.default_rng(len(b))
        shuffled = np.concatenate([b[None], random.permuted(np.tile(b, (DRAWS, 1)), axis=1)])
    correlation = float(a @ b) / scale
    return correlation, float((np.abs(shuffled @ a) / scale >= abs(correlation) - TOLERANCE).mean())


def _interval(correlation: float, n: int) -> tuple[float, float]:
    half = 1.96 * np.sqrt((1 + correlation**2 / 2) / (n - 3))
    at = np.arctanh(np.clip(correlation, -1 + TOLERANCE, 1 - TOLERANCE))
    return float(np.tanh(at - half)), float(np.tanh(at + half))


def _sentence(row: dict[str, Any]) -> str:
    left = f" Left out: {', '.join(row['left_out'][:5])}." if row["left_out"] else ""
    if row["verdict"] == TOO_FEW:
        words = f"{len(row['models'])} decoders with a peak of dimension, a loss and equal tokens are too few"
        return f"{words} ({MIN_MODELS} needed).{left}"
    if row["correlation"] is None:
        return f"The onsets or the losses of {len(row['models'])} decoders are all equal.{left}"
    size = f"{format_interval(row, 'correlation', '.2f')}, p {row['p']:.3f}"
    text = (
        f"Over {len(row['models'])} decoders, the onset of dimension's rise and the loss have rank correlation {size}"
    )
    return f"{text}. {describe_claim(row['claim'], CLAIM)}{left}"
