"""Comparison of the spectral decay alpha with the effective rank, over training.

Li et al. 2025 claim that alpha falls while the rank expands and rises while the rank compresses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.frames import HISTORY_COLUMNS
from pipeline.analysis.group_errors import Estimate, center_and_scale, paired_half_width, shares_groups, subtract_rows

BOTH_LEVEL = 0.975
"""Coverage of the interval of each of two changes, with which that of the smaller change has at least 95 %."""
MIRROR_TYPES: dict[str, Any] = {
    **dict.fromkeys(("rank_start", "rank_peak", "rank_stop"), pl.Int64()),
    **{f"{name}{end}": pl.Float64() for name in ("mirror", "with_rank") for end in ("", "_low", "_high")},
}


def measure_mirroring(alpha: pl.DataFrame, rank: pl.DataFrame, peaks: pl.DataFrame) -> pl.DataFrame:
    """Compare alpha with the expansion and the compression of the rank.

    The rank expands from its lowest checkpoint before the peak, at step `rank_start`, to the peak at `rank_peak`. It
    compresses from there to its lowest checkpoint after the peak, at `rank_stop`. Columns, one row per history in
    `peaks`:

    - the keys of a history, `rank_start`, `rank_peak`, `rank_stop`
    - `mirror`: fall of alpha during the expansion, or rise of alpha during the compression, whichever is smaller
    - `with_rank`: correlation of alpha with the log of the rank, from `rank_start` to `rank_stop`
    - the limits of their 95 % intervals, with the endings `_low` and `_high`

    Args:
        alpha: points of alpha, one per history and step, with the columns of `add_errors`.
        rank: the same for the log of the rank.
        peaks: keys of the histories whose rank has a significant interior peak, and the `peak_step` of this peak.
    """
    on = [*HISTORY_COLUMNS, "step"]
    ranks = rank.drop_nulls("value").select(*on, rank="value", rank_deviations="deviations")
    points = alpha.drop_nulls("value").join(ranks, on=on, nulls_equal=True)
    points = points.join(peaks, on=HISTORY_COLUMNS, nulls_equal=True).sort("step")
    parts = points.partition_by(HISTORY_COLUMNS, maintain_order=True)
    types = {name: alpha.schema[name] for name in HISTORY_COLUMNS} | MIRROR_TYPES
    return pl.DataFrame([_compare(part.to_dicts()) for part in parts], schema=types)


def _compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the keys of one history and its columns in MIRROR_TYPES.

    These columns are missing unless alpha is known at the peak, before it and after it.
    """
    found = {name: rows[0][name] for name in HISTORY_COLUMNS}
    steps, rank = [row["step"] for row in rows], [row["rank"] for row in rows]
    peak = steps.index(rows[0]["peak_step"]) if rows[0]["peak_step"] in steps else 0
    if not 0 < peak < len(rows) - 1:
        return found
    start, stop = int(np.argmin(rank[:peak])), peak + 1 + int(np.argmin(rank[peak + 1 :]))
    ends = [subtract_rows(rows[end], rows[peak], BOTH_LEVEL)[0] for end in (start, stop)]
    found |= {"rank_start": steps[start], "rank_peak": steps[peak], "rank_stop": steps[stop]}
    estimates = {"mirror": smaller_of(ends), "with_rank": correlate(rows[start : stop + 1])}
    for name, estimate in estimates.items():
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))
    return found


def smaller_of(estimates: Sequence[Estimate]) -> Estimate:
    """Return the smallest of several values; its limits are the smallest lower and the smallest upper limit."""
    value, lows, highs = zip(*estimates, strict=True)
    return Estimate(min(value)) if None in (*lows, *highs) else Estimate(min(value), min(lows), min(highs))


def correlate(rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """Return the correlation of `value` with `rank` over the points, with its 95 % interval.

    The interval comes from paired groups and is exact to first order in the errors. Without paired groups there is
    none.
    """
    (a, size_a), (b, size_b) = (center_and_scale(np.array([row[name] for row in rows])) for name in ("value", "rank"))
    r = float(a @ b)
    paired = all(shares_groups(rows[0], row) and row["rank_deviations"] is not None for row in rows)
    if not paired or min(size_a, size_b) == 0:
        return Estimate(r)
    errors = (np.array([row[name] for row in rows]) for name in ("deviations", "rank_deviations"))
    weights = (b - r * a) / size_a, (a - r * b) / size_b
    half = paired_half_width(np.sum([weight @ error for weight, error in zip(weights, errors, strict=True)], axis=0))
    return Estimate(r, r - half, r + half)
