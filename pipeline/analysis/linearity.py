"""Linearity between neighbouring layers, with and without the residual stream (Razzhigaev et al. 2024b)."""

from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.claims import decide, describe_claim, name_side
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LABEL_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_newest_rows,
)
from pipeline.analysis.group_errors import Estimate, add_errors, average_points, make_interval

LINEAR_FROM = 0.9
"""Mean R^2 of the linear map to the next layer above which a model is linear."""
RESIDUAL_ERROR_FACTOR = 2.0
"""Factor on the error of the gap: allows for the unknown error of the variances, which have no values per group."""
LINEAR, NOT_LINEAR = "linear", "not_linear"
CLAIM = "neighbouring layers are related almost linearly"
_TYPES: dict[str, Any] = {
    f"{name}{end}": pl.Float64() for name in ("linearity", "gap") for end in ("", "_low", "_high")
}
_TYPES |= {"without_residual": pl.Float64(), "rows": pl.Int64()}


def compute_linearity(lake: LakeOrFrame) -> pl.DataFrame:
    """Compute the mean linearity between neighbouring layers of the newest checkpoint of each history.

    Columns: keys, `revision`, `step`, `verdict` (linear = R^2 above 0.9 at 95 %, not_linear, undecided, no_errors),
    `claim` (linear: supports, contradicts, undecided), `linearity` (mean R^2 over the layers that have a next one),
    `without_residual` (the same for the increment alone) and their difference `gap`; `linearity` and `gap` have 95 %
    intervals; `rows`, `because`.
    Error of the gap: both R^2 have the same residual of the fit, so the error of `without_residual` follows from the
        error of `linearity` and the ratio of the variances of the next layer and of the increment. The error of this
        ratio is unknown; twice the error of the gap at a fixed ratio is stated.
    Bias: unrelated layers have a linearity above 0.2 if there are fewer than five tokens per dimension.
    """
    frame = select_newest_rows(load_layer_rows(lake)).filter(pl.col("linearity").is_not_null())
    by = [*HISTORY_COLUMNS, *LABEL_COLUMNS]
    rows = add_errors(frame, "linearity")
    means = average_points(rows, by)
    measured = [_summarize(row, gap) for row, gap in zip(means.to_dicts(), _list_gaps(rows, by), strict=True)]
    columns = [pl.Series(name, [each[name] for each in measured], kind) for name, kind in _TYPES.items()]
    found = means.select(by).with_columns(columns)
    low, high = pl.col("linearity_low"), pl.col("linearity_high")
    words = name_side(low, high, LINEAR_FROM, LINEAR, NOT_LINEAR)
    found = found.with_columns(verdict=words, claim=decide(low > LINEAR_FROM, high < LINEAR_FROM))
    return add_because_column(found.select(*by, "verdict", "claim", *_TYPES).sort(by), _sentence)


def _list_gaps(rows: pl.DataFrame, by: list[str]) -> list[tuple[float | None, float | None, float | None]]:
    """Return, per history, the means over the layers of `without_residual` and `gap`, and the error of the gap."""
    return [_measure_gap(part) for part in rows.partition_by(by, maintain_order=True)]


def _measure_gap(part: pl.DataFrame) -> tuple[float | None, float | None, float | None]:
    part = part.drop_nulls("linearity_residual")
    if part.is_empty():
        return None, None, None
    value, bare = part["value"].to_numpy(), part["linearity_residual"].to_numpy()
    ratio = (1 - bare) / np.maximum(1 - value, np.finfo(float).eps)
    means = float(bare.mean()), float((value - bare).mean())
    if part["deviations"].null_count() or part["deviations"].list.len().n_unique() > 1:
        return *means, None
    deviations = part["deviations"].explode().to_numpy().reshape(part.height, -1)
    own = ((1 - ratio)[:, None] * deviations).mean(0)
    return *means, RESIDUAL_ERROR_FACTOR * float(np.sqrt((own**2).sum()))


def _summarize(row: dict[str, Any], gap: tuple[float | None, float | None, float | None]) -> dict[str, Any]:
    bare, difference, error = gap
    found: dict[str, Any] = {"without_residual": bare, "rows": row["rows"]}
    estimates = {"linearity": make_interval(row["value"], row["se"], row["df"])}
    estimates["gap"] = Estimate(None) if difference is None else make_interval(difference, error, row["df"])  # type: ignore[arg-type]
    for name, estimate in estimates.items():
        found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return found


def _sentence(row: dict[str, Any]) -> str:
    text = f"A linear map predicts {format_interval(row, 'linearity', '.1%')} of the next layer's variance"
    if row["gap"] is not None:
        text += f", and {row['without_residual']:.1%} of the variance of the increment alone"
        text += f" (difference {format_interval(row, 'gap', '.1%')})"
    return f"{text}. {describe_claim(row['claim'], CLAIM)}"
