"""Convergence of the profile of anisotropy over depth in the training of one model.

Movement is measured between anchors. These are the checkpoints nearest to the end, a half, a quarter ... of the
training, so that a full and a thinned grid of checkpoints measure the same quantities. The distance of two profiles is
the root mean square of their difference over the blocks. Its interval assumes the worst case, in which the errors of
all blocks are fully correlated.
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import stdtrit

from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_trained_blocks,
)
from pipeline.analysis.group_errors import Estimate, add_errors
from pipeline.analysis.simultaneous_test import Floats

MIN_ANCHORS = 3
"""Number of anchors that a verdict needs: the end, half of the training, and an earlier one."""
MAX_DOUBLINGS = 20
ANCHOR_DOUBLINGS = 0.5
"""Largest distance of a checkpoint from its anchor, in doublings of training."""
SETTLED_SHARE = 0.1
"""A settled profile moves in the last doubling of training by less than this share of the largest distance of an
earlier profile to the last one."""
STILL, SETTLED, SLOWING, MOVING = "still", "settled", "converging", "moving"
CLAIM = "the profile of anisotropy settles in training"


class Profile(NamedTuple):
    """Anisotropy of the blocks of one checkpoint."""

    at: float
    """Time in training, in tokens or steps."""
    depth: Floats
    value: Floats
    se: Floats
    deviations: Floats | None
    """Deviations of the groups (`group_errors`), [blocks, groups]; None without values per group."""
    contexts: str | None
    """Digest of the contexts that were read."""
    df: int
    """Degrees of freedom of the errors; 0 without errors."""


def compute_convergence(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare how far a history's profile moves in the last doubling of training with how far it moved in earlier ones.

    Columns, one row per history:

    - the keys of a history
    - `verdict`:
        - `still`: no anchor has a profile that differs significantly from the last one.
        - `converging`: the profile is significantly slower in the last doubling than in the fastest earlier one.
        - `settled`: in addition, it moves in the last doubling by under a tenth of `distance` (95 %).
        - `moving`: it moves significantly in the last doubling, and is not significantly slower than in the fastest.
        - `undecided`: the speed in the last doubling is within error.
        - `too_few`: there are fewer than 3 anchors.
        - `no_errors`: the rows have no standard errors.
    - `claim` (the profile settles): `supports` for settled, `contradicts` for moving, else `undecided`
    - `distance`: largest distance of an anchor's profile to the last profile
    - `late`, `fastest`: speed in the last doubling and in the fastest earlier one, as distance per e-fold of training
    - `distance`, `late` and `fastest` have 95 % intervals in the columns with the endings `_low` and `_high`
    - `fastest_at`: time at which the fastest doubling starts
    - `clock`: unit of time, `tokens` or `steps`
    - `checkpoints`, `anchors`: number of checkpoints with a value in every block, and of anchors among them
    - `paired`: true if the intervals of the distances to the end are paired
    - `left_out`: steps at which a block has no value
    - `rows`: number of rows of blocks
    - `because`: the result in one or two sentences
    """
    frame = add_errors(load_trained_blocks(lake), "anisotropy")
    frame = frame.filter(pl.col("value").is_not_null().any().over(*HISTORY_COLUMNS, "layer"))
    parts = frame.partition_by(*HISTORY_COLUMNS, maintain_order=True)
    found = pl.DataFrame([_summarize_history(part) for part in parts], schema=_TYPES).sort(HISTORY_COLUMNS)
    return add_because_column(found, _sentence)


_ESTIMATES = ("distance", "late", "fastest")
_TYPES: dict[str, Any] = dict.fromkeys((*HISTORY_COLUMNS, "verdict", "claim"), pl.String())
_TYPES |= dict.fromkeys((f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")), pl.Float64())
_TYPES |= {"fastest_at": pl.Float64(), "clock": pl.String(), "checkpoints": pl.Int64(), "anchors": pl.Int64()}
_TYPES |= {"paired": pl.Boolean(), "left_out": pl.List(pl.Int64()), "rows": pl.Int64()}


def choose_clock(part: pl.DataFrame) -> str:
    """Return the column of time in training: `tokens_seen` if every row has a value there, else `step`."""
    return "step" if part["tokens_seen"].null_count() else "tokens_seen"


def read_profiles(part: pl.DataFrame, clock: str) -> tuple[list[Profile], list[int]]:
    """Return the profiles of the checkpoints with a value in every block, by step; and the steps of the others."""
    blocks = part["layer"].n_unique()
    profiles, left_out = [], []
    for rows in part.sort("step", "layer").partition_by("step", maintain_order=True):
        if rows.height < blocks or rows["value"].null_count():
            left_out.append(int(rows["step"][0]))
            continue
        profiles.append(_read_profile(rows, clock))
    return profiles, left_out


def _read_profile(rows: pl.DataFrame, clock: str) -> Profile:
    lists = rows["deviations"]
    paired = lists.null_count() == 0 and lists.list.len().n_unique() == 1
    deviations = lists.explode().to_numpy().reshape(rows.height, -1) if paired else None
    se = rows["se"].fill_null(float("nan")).to_numpy()
    df = rows["df"].min()
    numbers = (rows[name].to_numpy() for name in ("depth", "value"))
    return Profile(float(rows[clock][0]), *numbers, se, deviations, rows["contexts_digest"][0], int(df or 0))  # type: ignore[arg-type]


def find_anchors(times: Floats) -> list[int]:
    """Return the indices of the checkpoints nearest to the end of training, to its half, its quarter and so on.

    A fraction without a checkpoint within ANCHOR_DOUBLINGS is skipped, but the search ends if there is none at half of
    the training. A checkpoint whose time is not positive is never an anchor.
    """
    log = np.log2(np.where(times > 0, times, np.nan))
    anchors: list[int] = []
    for doubling in range(MAX_DOUBLINGS):
        apart = np.abs(log - (log[-1] - doubling))
        if not np.isfinite(apart).any() or log[-1] - doubling < np.nanmin(log) - ANCHOR_DOUBLINGS:
            break
        nearest = int(np.nanargmin(apart))
        if apart[nearest] <= ANCHOR_DOUBLINGS and nearest not in anchors:
            anchors.append(nearest)
        elif doubling == 1:
            break
    return anchors


def measure_distance(first: Profile, second: Profile, tests: int = 1) -> tuple[Estimate, bool]:
    """Return the RMS distance of two profiles over the blocks with its interval, and True if the interval is paired.

    The half width is Student's t times the estimated RMS error of the blocks. The distance is off by at most the RMS
    of the actual errors. This RMS exceeds the half width at the stated rate if all blocks have the same error, and less
    often otherwise.

    Args:
        tests: number of distances that together have an error rate of 5 % (Bonferroni).
    """
    distance = float(np.sqrt(((second.value - first.value) ** 2).mean()))
    a, b = first.deviations, second.deviations
    paired = a is not None and b is not None and a.shape == b.shape
    paired = paired and first.contexts is not None and first.contexts == second.contexts
    squares = ((b - a) ** 2).sum(1) if paired else first.se**2 + second.se**2  # type: ignore[operator]
    df = min(first.df, second.df)
    half = float(stdtrit(df, 1 - 0.025 / tests) * np.sqrt(squares.mean())) if df else float("nan")
    if not np.isfinite(half):
        return Estimate(distance), paired
    return Estimate(distance, max(0.0, distance - half), distance + half), paired


def _summarize_history(part: pl.DataFrame) -> dict[str, Any]:
    clock = choose_clock(part)
    profiles, left_out = read_profiles(part, clock)
    row: dict[str, Any] = {name: part[name][0] for name in HISTORY_COLUMNS}
    row |= {"clock": "tokens" if clock == "tokens_seen" else "steps", "left_out": left_out, "rows": part.height}
    anchors = find_anchors(np.array([profile.at for profile in profiles])) if profiles else []
    row |= {"checkpoints": len(profiles), "anchors": len(anchors), "claim": UNDECIDED}
    if len(anchors) < MIN_ANCHORS:
        return row | {"verdict": TOO_FEW}
    return row | _measure_movement([profiles[i] for i in anchors])


def _measure_movement(anchors: list[Profile]) -> dict[str, Any]:
    """Return the columns of one history from the profiles of its anchors, which start at the end of training."""
    tests = len(anchors) - 1
    to_end = [measure_distance(profile, anchors[0], tests) for profile in anchors[1:]]
    speeds = [_measure_speed(*pair, tests) for pair in zip(anchors[1:], anchors, strict=False)]
    farthest = max((estimate for estimate, _ in to_end), key=lambda estimate: estimate.value)
    late, early = _measure_speed(anchors[1], anchors[0], 1), speeds[1:]
    fastest = max(range(len(early)), key=lambda i: early[i].value)
    row: dict[str, Any] = {"paired": all(paired for _, paired in to_end), "fastest_at": anchors[fastest + 2].at}
    for name, estimate in zip(_ESTIMATES, (farthest, late, early[fastest]), strict=True):
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    verdict = _verdict(farthest, measure_distance(anchors[1], anchors[0])[0], late, early[fastest])
    return row | {"verdict": verdict, "claim": {SETTLED: SUPPORTS, MOVING: CONTRADICTS}.get(verdict, UNDECIDED)}


def _measure_speed(first: Profile, second: Profile, tests: int) -> Estimate:
    """Return the distance of two profiles divided by the number of e-folds of training between them."""
    distance, span = measure_distance(first, second, tests)[0], np.log(second.at / first.at)
    return Estimate(*(None if each is None else float(each / span) for each in distance))  # type: ignore[arg-type]


def _verdict(farthest: Estimate, moved: Estimate, late: Estimate, fastest: Estimate) -> str:
    limits = farthest.low, moved.high, late.low, late.high, fastest.low
    if None in limits:
        return NO_ERRORS
    farthest_low, moved_high, late_low, late_high, fastest_low = (limit or 0.0 for limit in limits)
    if farthest_low <= 0:
        return STILL
    if late_high < fastest_low:
        return SETTLED if moved_high < SETTLED_SHARE * farthest.value else SLOWING
    return MOVING if late_low > 0 else UNDECIDED


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == TOO_FEW:
        return f"{row['checkpoints']} checkpoints are too few: the end, half and a quarter of the training are needed."
    if row["verdict"] == NO_ERRORS:
        return f"The rows of these {row['checkpoints']} checkpoints have no standard errors, which a verdict needs."
    text = {
        STILL: "No earlier profile differs significantly from the last one",
        SETTLED: "The profile has settled: the last doubling of training moves it by under a tenth of the whole way",
        SLOWING: "The profile moves significantly slower in the last doubling of training than at its fastest",
        MOVING: "The profile moves in the last doubling of training, not significantly slower than at its fastest",
        UNDECIDED: "The movement of the profile in the last doubling of training is within error",
    }[row["verdict"]]
    speeds = f"{format_interval(row, 'late')} per e-fold of {row['clock']} in the last doubling"
    fastest = f"{format_interval(row, 'fastest')} in the fastest, from {row['fastest_at']:,.0f} {row['clock']}"
    left = f" Left out for a missing block: step {', '.join(map(str, row['left_out'][:5]))}." if row["left_out"] else ""
    return f"{text}: {speeds}, {fastest}. {describe_claim(row['claim'], CLAIM)}{left}"
