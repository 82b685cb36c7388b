"""Convergence between models: are the profiles of the decoders of a lake more alike late in training than early?"""

from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtrit

from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.convergence import Profile, choose_clock, read_profiles
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    run_name,
    select_block_rows,
    select_history_rows,
)
from pipeline.analysis.group_errors import Estimate, add_errors
from pipeline.analysis.simultaneous_test import Floats

EARLY_SHARE, EARLY_FACTOR = 0.01, 4.0
"""The early checkpoint is the one nearest to 1 % of a run's training; it must be within a factor 4 of this."""
SAME_SHAPE = 0.1
"""Mean distance between profiles, in units of anisotropy, below which models count as having one shape."""
DEPTHS = np.linspace(0, 1, 21)
"""Depths at which profiles are compared, by linear interpolation, since models have different numbers of blocks."""
METRICS = ("anisotropy", "anisotropy_no_sink")
CLAIM = "the profiles of all decoders converge to one shape"
CONVERGE, DIVERGE, UNCHANGED = "converge", "diverge", "unchanged"


def select_early_and_late(lake: LakeOrFrame) -> pl.DataFrame:
    """Select the rows that `compute_one_shape` needs: the blocks of each decoder's early and last checkpoint."""
    frame = select_block_rows(select_history_rows(load_layer_rows(lake))).filter(pl.col("kind") == "decoder")
    stated = pl.col("tokens_seen").null_count().over(HISTORY_COLUMNS) == 0
    at = pl.when(stated).then("tokens_seen").otherwise("step").cast(pl.Float64)
    frame = frame.with_columns(_at=at).with_columns(_last=pl.col("_at").max().over(HISTORY_COLUMNS))
    apart = pl.when(pl.col("_at") > 0).then((pl.col("_at") / (EARLY_SHARE * pl.col("_last"))).log().abs())
    frame = frame.with_columns(_apart=apart)
    nearest = (pl.col("_apart") == pl.col("_apart").min().over(HISTORY_COLUMNS)) & (
        pl.col("_apart") <= np.log(EARLY_FACTOR)
    )
    chosen = nearest.fill_null(False) | (pl.col("_at") == pl.col("_last"))
    return frame.filter(chosen).drop("_at", "_last", "_apart")


def compute_one_shape(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the distances between the profiles of decoders early in training with those at the end.

    Early is the checkpoint nearest to 1 % of training. The distance of two profiles is the root mean square of their
    difference over depth.

    Columns, one row per corpus, recipe and metric:

    - `corpus`, `recipe`
    - `metric`: `anisotropy` or `anisotropy_no_sink`
    - `verdict`:
        - `converge`: the mean distance falls significantly.
        - `diverge`: the mean distance rises significantly.
        - `unchanged`: it does neither.
        - `too_few`: fewer than two decoders have an early checkpoint.
        - `no_errors`: a profile has no standard errors.
    - `claim` (the profiles converge to one shape): `supports` if the mean distance falls significantly and is below 0.1
      late (95 %); `contradicts` if it does not fall significantly and is above 0.1 late (95 %); else `undecided`
    - `early`, `late`: mean distance over pairs of models
    - `change`: `late` minus `early`
    - `early`, `late` and `change` have 95 % intervals in the columns with the endings `_low` and `_high`
    - `models`: names of the compared models
    - `left_out`: names of the models without an early checkpoint, or with a block without a value
    - `rows`: number of rows of this corpus and recipe
    - `because`: the result in one or two sentences

    Bias: the interval covers the errors of these models' profiles over contexts; it does not extend to other models.
    The errors of all blocks are treated as fully correlated, and the half widths of early and late are added.
    """
    frame = select_early_and_late(lake)
    parts = frame.partition_by("corpus", "recipe", maintain_order=True)
    found = [_compare_models(part, metric) for part in parts for metric in METRICS]
    table = pl.DataFrame(found, schema=_TYPES).sort("corpus", "recipe", "metric")
    return add_because_column(table, _sentence)


_TYPES: dict[str, Any] = dict.fromkeys(("corpus", "recipe", "metric", "verdict", "claim"), pl.String())
_TYPES |= {f"{n}{end}": pl.Float64() for n in ("early", "late", "change") for end in ("", "_low", "_high")}
_TYPES |= {"models": pl.List(pl.String()), "left_out": pl.List(pl.String()), "rows": pl.Int64()}


def _compare_models(part: pl.DataFrame, metric: str) -> dict[str, Any]:
    rows = add_errors(part, metric)
    histories = rows.partition_by(*HISTORY_COLUMNS, maintain_order=True)
    pairs = {_name(history): read_profiles(history, choose_clock(history))[0] for history in histories}
    known = {name: profiles for name, profiles in pairs.items() if len(profiles) == 2}
    row: dict[str, Any] = {"corpus": part["corpus"][0], "recipe": part["recipe"][0], "metric": metric}
    row |= {"models": sorted(known), "left_out": sorted(set(pairs) - set(known)), "rows": part.height}
    if len(known) < 2:
        return row | {"verdict": TOO_FEW, "claim": UNDECIDED}
    early, late = (_mean_distance([profiles[i] for profiles in known.values()]) for i in (0, 1))
    change = Estimate(late.value - early.value)
    if early.low is not None and early.high is not None and late.low is not None and late.high is not None:
        change = Estimate(change.value, late.low - early.high, late.high - early.low)
    for name, estimate in (("early", early), ("late", late), ("change", change)):
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row | _judge(late, change)


def _name(history: pl.DataFrame) -> str:
    return history.select(run_name()).item(0, 0)


def _mean_distance(profiles: list[Profile]) -> Estimate:
    """Return the mean over pairs of models of the RMS distance over depth.

    The half width of its interval is the mean over pairs of the combined half widths of the two models.
    """
    shapes = [np.interp(DEPTHS, profile.depth, profile.value) for profile in profiles]
    distances = [float(np.sqrt(((a - b) ** 2).mean())) for a, b in combinations(shapes, 2)]
    halves = [_half_width(profile) for profile in profiles]
    half = float(np.mean([np.hypot(a, b) for a, b in combinations(halves, 2)]))
    value = float(np.mean(distances))
    return Estimate(value, max(0.0, value - half), value + half) if np.isfinite(half) else Estimate(value)


def _half_width(profile: Profile) -> float:
    """Return Student's t at 97.5 % times the RMS over depth of a profile's standard errors; NaN without errors."""
    squares: Floats = np.interp(DEPTHS, profile.depth, profile.se**2)
    return float(stdtrit(profile.df, 0.975) * np.sqrt(squares.mean())) if profile.df else float("nan")


def _judge(late: Estimate, change: Estimate) -> dict[str, str]:
    if change.low is None or change.high is None or late.low is None or late.high is None:
        return {"verdict": NO_ERRORS, "claim": UNDECIDED}
    verdict = CONVERGE if change.high < 0 else DIVERGE if change.low > 0 else UNCHANGED
    if verdict == CONVERGE and late.high < SAME_SHAPE:
        return {"verdict": verdict, "claim": SUPPORTS}
    apart = verdict != CONVERGE and late.low > SAME_SHAPE
    return {"verdict": verdict, "claim": CONTRADICTS if apart else UNDECIDED}


def _sentence(row: dict[str, Any]) -> str:
    tokens = "all tokens" if row["metric"] == "anisotropy" else "without sink tokens"
    left = f" Left out: {', '.join(row['left_out'])}." if row["left_out"] else ""
    if row["verdict"] == TOO_FEW:
        n = len(row["models"])
        found = f"{n or 'no'} decoder{'' if n == 1 else 's'} with a checkpoint near 1 % of training"
        return f"A comparison ({tokens}) needs two decoders; the lake has {found}.{left}"
    distances = f"{format_interval(row, 'early')} early and {format_interval(row, 'late')} late"
    if row["verdict"] == NO_ERRORS:
        return (
            f"The mean distance of {len(row['models'])} profiles ({tokens}) is {distances}; errors are unknown.{left}"
        )
    change = {
        CONVERGE: "falls significantly",
        DIVERGE: "rises significantly",
        UNCHANGED: "does not change significantly",
    }[row["verdict"]]
    text = f"The mean distance of the profiles of {len(row['models'])} decoders ({tokens}) {change}: {distances}"
    return f"{text}. {describe_claim(row['claim'], CLAIM)}{left}"
