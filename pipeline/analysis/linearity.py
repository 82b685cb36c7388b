"""Linearity between neighbouring layers, with and without the residual stream (Razzhigaev et al. 2024b).

Linearity is the R^2 of the best linear map from the states of one layer to those of the next. Without the residual
stream, the map is to the increment alone: the next state minus the present one.
"""

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
"""Mean R^2 of the linear map to the next layer above which a model counts as linear."""
RESIDUAL_ERROR_FACTOR = 2.0
"""Factor by which the error of the gap is multiplied. It allows for the error of the variances, which is unknown since
they have no values per group."""
LINEAR, NOT_LINEAR = "linear", "not_linear"
CLAIM = "neighbouring layers are related almost linearly"
_TYPES: dict[str, Any] = {
    f"{name}{end}": pl.Float64() for name in ("linearity", "gap") for end in ("", "_low", "_high")
}
_TYPES |= {"without_residual": pl.Float64(), "rows": pl.Int64()}


def compute_linearity(lake: LakeOrFrame) -> pl.DataFrame:
    """Compute the mean linearity between neighbouring layers, at the newest checkpoint of each history.

    Columns, one row per history:

    - the keys of a history, `revision`, `step`
    - `verdict`:
        - `linear`: the mean R^2 is above 0.9 (95 %).
        - `not_linear`: the mean R^2 is below 0.9 (95 %).
        - `undecided`: its interval contains 0.9.
        - `no_errors`: it has no standard error.
    - `claim` (the layers are related almost linearly): `supports`, `contradicts` or `undecided`
    - `linearity`, `linearity_low`, `linearity_high`: mean R^2 over all layers but the last, with its 95 % interval
    - `gap`, `gap_low`, `gap_high`: mean of R^2 minus the R^2 of the map to the increment, with its 95 % interval
    - `without_residual`: mean R^2 of the map to the increment
    - `rows`: number of layers
    - `because`: the result in one or two sentences

    Error of the gap: both R^2 have the same residual of the fit, so the error of `without_residual` follows from the
        error of `linearity` and from the ratio of the variances of the next layer and of the increment. The error of
        this ratio is unknown. The stated error is twice that at a fixed ratio.
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
    """Return, for each history, the means over layers of `without_residual` and `gap`, and the error of `gap`."""
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
