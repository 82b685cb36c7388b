"""Convergence of the profile of anisotropy over depth during training."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis.curve_shapes import Floats
from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, add_because_column, load_trained_blocks

MIN_STANDARD_ERRORS = 4.0
"""Threshold for movement, in standard errors; 2 is too few for squared distances, whose upper tail is long."""
MIN_CHECKPOINTS = 5
"""Checkpoints needed for a verdict: two distances in each half."""


def measure_profile_distances(lake: LakeOrFrame) -> pl.DataFrame:
    """Measure the distance of each profile to the next checkpoint's and to the last checkpoint's.

    Columns: keys of a history, `step` and `next_step`, `distance` (root mean square over the blocks of the difference
    of anisotropy), `noise` (the distance expected from the rows' errors alone; null without errors), `to_last`, `rows`.
    """
    by = [*HISTORY_COLUMNS, "layer"]
    frame = load_trained_blocks(lake).filter(pl.col("anisotropy").is_not_null()).sort(*by, "step")
    value, se = pl.col("anisotropy"), pl.col("anisotropy_se")
    frame = frame.with_columns(
        next_step=pl.col("step").shift(-1).over(by),
        _moved=(value.shift(-1).over(by) - value) ** 2,
        _noise=se.shift(-1).over(by) ** 2 + se**2,
        _left=(value.last().over(by) - value) ** 2,
    ).filter(pl.col("next_step").is_not_null())
    distance, noise, to_last = (pl.col(name).mean().sqrt() for name in ("_moved", "_noise", "_left"))
    noise = pl.when(pl.col("_noise").null_count() == 0).then(noise)
    pairs = frame.group_by(*HISTORY_COLUMNS, "step", "next_step", maintain_order=True)
    distances = pairs.agg(distance=distance, noise=noise, to_last=to_last, rows=2 * pl.len())
    return distances.sort(*HISTORY_COLUMNS, "step")


def compute_convergence(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the movement of the profile in the first and the second half of a history's checkpoints.

    Columns: keys, `verdict` (still = no movement beyond noise in either half; settled = movement in the first half
    only; converging = less movement in the second half; moving = not significantly less; too_few, no_errors), `early`
    and `late` (mean squared distance of successive profiles, noise subtracted, each with its `_se`), `checkpoints`,
    `rows`, `because`.
    Bias: halves are counted in checkpoints, so an uneven grid of steps affects the verdict. The errors of all blocks
    are treated as fully correlated, which overstates them.
    """
    distances = measure_profile_distances(lake)
    histories = [_summarize_history(part) for part in distances.partition_by(*HISTORY_COLUMNS, maintain_order=True)]
    types = dict.fromkeys((*HISTORY_COLUMNS, "verdict"), pl.String) | {"checkpoints": pl.Int64, "rows": pl.Int64}
    types |= dict.fromkeys(("early", "early_se", "late", "late_se"), pl.Float64)
    return add_because_column(pl.DataFrame(histories, schema=types), _sentence)


def _summarize_history(part: pl.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {name: part[name][0] for name in HISTORY_COLUMNS}
    row |= {"checkpoints": part.height + 1, "rows": int(part["rows"].sum()) // 2}
    if part.height + 1 < MIN_CHECKPOINTS:
        return row | {"verdict": "too_few"}
    if part["noise"].null_count():
        return row | {"verdict": "no_errors"}
    squares, noise = part["distance"].to_numpy() ** 2, part["noise"].to_numpy() ** 2
    moved, middle = squares - noise, part.height // 2
    early, late = (_summarize_half(moved[half], noise[half]) for half in (slice(middle), slice(middle, None)))
    row |= {"early": early.moved, "early_se": early.se, "late": late.moved, "late_se": late.se}
    return row | {"verdict": _verdict(early, late)}


class _Half(NamedTuple):
    moved: float
    se: float
    still_se: float
    """Standard error under the hypothesis of no movement; it decides whether `moved` differs from 0."""


def _summarize_half(moved: Floats, noise: Floats) -> _Half:
    """(d + e)^2 has variance 2 s^4 + 4 s^2 d^2 if all blocks share one error e of variance s^2.

    Neighbouring distances share a checkpoint, so they count as half as many.
    """
    still = 2 * noise**2
    errors = (float(np.sqrt(2 * v.mean() / len(v))) for v in (still + 4 * noise * np.maximum(moved, 0), still))
    return _Half(float(moved.mean()), *errors)


def _verdict(early: _Half, late: _Half) -> str:
    if late.moved <= MIN_STANDARD_ERRORS * late.still_se:
        return "settled" if early.moved > MIN_STANDARD_ERRORS * early.still_se else "still"
    limit = MIN_STANDARD_ERRORS / 2 * float(np.hypot(early.se, late.se))
    return "converging" if early.moved - late.moved > limit else "moving"


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "too_few":
        return f"Only {row['checkpoints']} checkpoints; a verdict needs at least {MIN_CHECKPOINTS}."
    if row["verdict"] == "no_errors":
        return f"The rows of these {row['checkpoints']} checkpoints have no standard errors, which a verdict needs."
    text = {
        "still": "The profile does not move beyond its errors in either half of the checkpoints",
        "settled": "The profile moves in the first half of the checkpoints; movement in the second is within error",
        "converging": "The profile moves significantly less in the second half of the checkpoints than in the first",
        "moving": "The profile moves in the second half of the checkpoints, not significantly less than in the first",
    }[row["verdict"]]
    early, late = (max(row[name], 0) ** 0.5 for name in ("early", "late"))
    return f"{text}: {early:.3f} per checkpoint in the first half, {late:.3f} in the second (root mean square)."
