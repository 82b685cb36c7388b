"""Convergence of the profile of anisotropy over depth: within a run, and between the models of a lake.

Movement is measured between anchors, the checkpoints nearest to the end, a half, a quarter ... of the training, so
that a full and a thinned grid of checkpoints measure the same quantities. A distance is the root mean square over
blocks of the difference of two profiles; its interval assumes the worst case, fully correlated errors of the blocks.
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
"""Anchors needed for a verdict: the end, half of the training, and one earlier."""
MAX_DOUBLINGS = 20
ANCHOR_DOUBLINGS = 0.5
"""Largest distance of a checkpoint from its anchor, in doublings of training."""
SETTLED_SHARE = 0.1
"""Largest share of the whole distance that a settled profile moves in the second half of the training."""
STILL, SETTLED, SLOWING, MOVING = "still", "settled", "converging", "moving"
CLAIM = "the profile of anisotropy settles in training"


class Profile(NamedTuple):
    """Anisotropy of the blocks of one checkpoint."""

    at: float
    """Position in training, in tokens or steps."""
    depth: Floats
    value: Floats
    se: Floats
    deviations: Floats | None
    """[blocks, groups]; None without values per group."""
    contexts: str | None
    df: int


def compute_convergence(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the movement of a history's profile in the last doubling of training with that in earlier ones.

    Columns: keys, `verdict` (still = no anchor differs from the end; converging = the profile moves significantly less
    in the last doubling than in the fastest; settled = it also moves by under a tenth of the largest distance to the
    end, at 95 %; moving = it moves in the last doubling, and not significantly less than in the fastest; undecided;
    too_few = under 3 anchors, no_errors), `claim` (the profile settles: supports = settled, contradicts = moving,
    undecided), `distance` (largest distance of an anchor to the last
    checkpoint), `late` and `fastest` (speed per e-fold of training in the last and in the fastest doubling), each with
    its 95 % interval; `fastest_at` (start of that doubling), `clock` (tokens or steps), `checkpoints`, `anchors`,
    `paired`, `left_out` steps (a block has no value), `rows`, `because`.
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
    """Return the column that measures training: tokens where every row states them, else steps."""
    return "step" if part["tokens_seen"].null_count() else "tokens_seen"


def read_profiles(part: pl.DataFrame, clock: str) -> tuple[list[Profile], list[int]]:
    """Return the profiles of the checkpoints with a value in every block, by step, and the other checkpoints' steps."""
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
    """Indices of the checkpoints nearest to the end of training, its half, quarter and so on.

    A missing anchor is skipped, but the search ends if the one at half of the training is missing. Times that are not
    positive are never anchors.
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
    """Return the RMS distance over blocks of two profiles with its interval, and True if the interval is paired.

    `tests` distances share an error rate of 5 % (Bonferroni). The half width is Student's t times the estimated RMS
    error; |distance - truth| is at most the true RMS error, which exceeds this half width at that rate if all blocks
    share one error, and less often otherwise.
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
    """Distances and speeds between anchors, which run from the end of training backwards."""
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
    """Distance per e-fold of training."""
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
