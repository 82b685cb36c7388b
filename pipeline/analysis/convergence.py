"""Do profiles of anisotropy over depth converge to one shape in training?"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis.curve_shapes import Floats
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    load_layer_rows,
    select_block_rows,
    select_history_rows,
)

MIN_STANDARD_ERRORS = 4.0
"""Standard errors; 2 would be too few for squared distances, whose upper tail is long."""
MIN_CHECKPOINTS = 5
"""Checkpoints: two distances in each half."""


def measure_profile_distances(lake: LakeOrFrame) -> pl.DataFrame:
    """How far the profile moved from each checkpoint to the next, and how far each is from the last.

    Columns: keys of a history, `step` and `next_step`, `distance` (root mean square over the blocks of the difference
    of anisotropy), `noise` (what the rows' errors alone would give; null without), `to_last`, `rows`.
    """
    by = [*HISTORY_COLUMNS, "layer"]
    frame = (
        select_block_rows(select_history_rows(load_layer_rows(lake)))
        .filter(pl.col("anisotropy").is_not_null())
        .sort(*by, "step")
    )
    frame = frame.with_columns(
        next_step=pl.col("step").shift(-1).over(by),
        _moved=(pl.col("anisotropy").shift(-1).over(by) - pl.col("anisotropy")) ** 2,
        _noise=pl.col("anisotropy_se").shift(-1).over(by) ** 2 + pl.col("anisotropy_se") ** 2,
        _left=(pl.col("anisotropy").last().over(by) - pl.col("anisotropy")) ** 2,
    ).filter(pl.col("next_step").is_not_null())
    whole = pl.when(pl.col("_noise").null_count() == 0).then(pl.col("_noise").mean().sqrt())
    return (
        frame.group_by(*HISTORY_COLUMNS, "step", "next_step", maintain_order=True)
        .agg(
            distance=pl.col("_moved").mean().sqrt(),
            noise=whole,
            to_last=pl.col("_left").mean().sqrt(),
            rows=2 * pl.len(),
        )
        .sort(*HISTORY_COLUMNS, "step")
    )


def compute_convergence(lake: LakeOrFrame) -> pl.DataFrame:
    """Whether the profile moves less in the second half of a history's checkpoints than in the first.

    Columns: keys, `verdict` (still = it never moves beyond noise; settled = it moved, and no longer does; converging =
    less than before; moving = as much as before or more; too_few, no_errors), `early` and `late` (mean squared distance
    of successive profiles, noise taken off, each with its `_se`), `checkpoints`, `rows`, `because`.
    Bias: halves are counted in checkpoints, so an uneven grid of steps shapes the answer. Errors of all blocks are
    taken as one, which overstates them.
    """
    found = measure_profile_distances(lake)
    histories = [_summarize_history(part) for part in found.partition_by(*HISTORY_COLUMNS, maintain_order=True)]
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
    early, late = (_half(moved[half], noise[half]) for half in (slice(middle), slice(middle, None)))
    row |= {"early": early.moved, "early_se": early.se, "late": late.moved, "late_se": late.se}
    return row | {"verdict": _word(early, late)}


class _Half(NamedTuple):
    moved: float
    se: float
    still_se: float
    """Its error if nothing moved: by this it is told from 0."""


def _half(moved: Floats, noise: Floats) -> _Half:
    """(d + e)^2 has variance 2 s^4 + 4 s^2 d^2 if all blocks err as one by e of variance s^2.

    Neighbouring distances share a checkpoint: they count as half as many.
    """
    still = 2 * noise**2
    errors = (float(np.sqrt(2 * v.mean() / len(v))) for v in (still + 4 * noise * np.maximum(moved, 0), still))
    return _Half(float(moved.mean()), *errors)


def _word(early: _Half, late: _Half) -> str:
    if late.moved <= MIN_STANDARD_ERRORS * late.still_se:
        return "settled" if early.moved > MIN_STANDARD_ERRORS * early.still_se else "still"
    return (
        "converging"
        if early.moved - late.moved > MIN_STANDARD_ERRORS / 2 * float(np.hypot(early.se, late.se))
        else "moving"
    )


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] in ("too_few", "no_errors"):
        lack = f"only {row['checkpoints']} checkpoints" if row["verdict"] == "too_few" else "no standard errors"
        return f"There are {lack} to judge by."
    said = {
        "still": "The profile never moves beyond its errors",
        "settled": "The profile moves in the first half of the checkpoints and not surely in the second",
        "converging": "The profile moves less in the second half of the checkpoints than in the first",
        "moving": "The profile moves in the second half of the checkpoints not surely less than in the first",
    }[row["verdict"]]
    early, late = (max(row[name], 0) ** 0.5 for name in ("early", "late"))
    return f"{said}: {early:.3f} from one to the next, then {late:.3f}."
