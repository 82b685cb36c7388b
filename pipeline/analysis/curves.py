"""Tables of curves over depth or training, with their moves and peaks. Errors are paired if all points of a curve share
their contexts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.curve_shapes import CurveShapes, Move, classify_curves
from pipeline.analysis.simultaneous_test import Floats, PairErrors, estimate_paired_errors, estimate_unpaired_errors

MIN_CURVE_POINTS = 3
"""Number of points that a curve needs to have an interior."""
TOO_FEW, NO_ERRORS, JUDGED = "too_few", "no_errors", "judged"
MOVE_TYPE = pl.Struct(
    {"direction": pl.String, **dict.fromkeys(("first", "last", "size", "size_low", "size_high"), pl.Float64)}
)
_NUMBERS = ("top", "top_low", "top_high", "top_value", "height", "height_low", "height_high", "range")
_SHAPE_TYPES = {
    "status": pl.String(),
    "peaked": pl.Boolean(),
    "main": pl.List(MOVE_TYPE),
    "moves": pl.List(MOVE_TYPE),
    **dict.fromkeys(_NUMBERS, pl.Float64()),
}


def tabulate_curves(points: pl.DataFrame, by: Sequence[str], at: str, ends: bool = False) -> pl.DataFrame:
    """Find the moves and the peak of curves: of `value` over the column `at`, one curve per value of the columns `by`.

    `points` has the columns that `add_errors` adds. The result has one row per curve:

    - the columns `by`
    - `status`: `judged`, `too_few` (fewer than three points) or `no_errors`
    - `moves`: list of all significant moves, each with its `direction` (`rise` or `fall`), `first` and `last` value of
      `at`, and `size` with its simultaneous 95 % interval
    - `main`: list of the moves that are larger than a tenth of the largest significant difference
    - `range`: largest value minus smallest value
    - `peaked`: true if the curve has a significant interior peak
    - `top`, `top_low`, `top_high`: value of `at` at the peak, or at the highest point without a peak, with its 95 %
      interval
    - `top_value`: value of the curve there
    - `height`, `height_low`, `height_high`: largest height of an interior point above points on both sides, with its
      95 % interval
    - `start`, `stop`: first and last value of `at`
    - `rows`: number of points
    - `paired`: true if the errors of differences are paired
    - `left_out`: values of `at` of the points that have no value, or no error although enough others have one

    Moves, `peaked` and the limits of intervals are null without errors.

    Args:
        ends: if true, a peak is compared with the first and the last point only.
    """
    curves = _gather_curves(points, by, at)
    parts = curves.partition_by("rows", "df", "status", "paired", maintain_order=True)
    empty = curves.with_columns(pl.lit(None, kind).alias(name) for name, kind in _SHAPE_TYPES.items()).clear()
    found = [_classify_part(part, ends) for part in parts]
    return pl.concat([empty, *found]).drop("at", "value", "se", "deviations", "df")


def start_share(first: str, last: str) -> pl.Expr:
    """Return the expression of a history's first step as a share of its last step; null if the last step is 0.

    `first` and `last` are the names of the columns of these steps.
    """
    return pl.when(pl.col(last) > 0).then(pl.col(first) / pl.col(last))


def _gather_curves(points: pl.DataFrame, by: Sequence[str], at: str) -> pl.DataFrame:
    """Return one row per curve, with its points as lists.

    Points without an error are left out if at least MIN_CURVE_POINTS others have one.
    """
    points = points.with_columns(pl.col(at).cast(pl.Float64).alias("at"), _sound=pl.col("se").is_not_null())
    sound = pl.col("_sound") & pl.col("value").is_not_null()
    points = points.with_columns(_enough=sound.sum().over(by) >= MIN_CURVE_POINTS, _sound=sound)
    kept = pl.when("_enough").then("_sound").otherwise(pl.col("value").is_not_null())
    left = points.filter(~kept & pl.col("at").is_not_null()).group_by(by).agg(left_out=pl.col("at").unique().sort())
    groups, digest = pl.col("deviations").list.len(), pl.col("contexts_digest")
    paired = (groups.null_count() == 0) & (groups.n_unique() == 1) & (digest.null_count() == 0)
    gathered = points.filter(kept).sort("at").group_by(by, maintain_order=True)
    curves = gathered.agg(
        pl.col("at", "value", "se"),
        pl.col("deviations"),
        pl.col("_enough").first(),
        pl.col("df").min().fill_null(1).clip(lower_bound=1),
        paired=paired & (digest.n_unique() == 1),
        rows=pl.len(),
        start=pl.col("at").first(),
        stop=pl.col("at").last(),
    )
    status = pl.when(pl.col("rows") < MIN_CURVE_POINTS).then(pl.lit(TOO_FEW))
    status = status.when("_enough").then(pl.lit(JUDGED)).otherwise(pl.lit(NO_ERRORS))
    curves = curves.with_columns(status=status).drop("_enough")
    empty = pl.lit([], pl.List(pl.Float64))
    return curves.join(left, on=by, how="left", nulls_equal=True).with_columns(pl.col("left_out").fill_null(empty))


def _classify_part(part: pl.DataFrame, ends: bool) -> pl.DataFrame:
    """Add the columns of _SHAPE_TYPES to curves that all have the same number of points and of groups."""
    at, value = (np.array(part[name].to_list(), float) for name in ("at", "value"))
    status, none = part["status"][0], [None] * len(part)
    each = np.arange(len(part))
    columns: dict[str, Any] = dict.fromkeys(_SHAPE_TYPES, none) | {"range": np.ptp(value, axis=1)}
    columns |= {"status": part["status"]}
    if status == TOO_FEW:
        top = value.argmax(1)
        columns |= {"top": at[each, top], "top_value": value[each, top]}
    else:
        shapes = classify_curves(value, _errors(part, judged=status == JUDGED), ends)
        columns |= {"top": at[each, shapes.top], "top_value": value[each, shapes.top], "height": shapes.height}
        columns |= _judged_columns(shapes, at) if status == JUDGED else {}
    return part.with_columns(*(pl.Series(name, columns[name], kind) for name, kind in _SHAPE_TYPES.items()))


def _errors(part: pl.DataFrame, judged: bool) -> PairErrors:
    if judged and part["paired"][0]:
        return estimate_paired_errors(_stack(part["deviations"], part["rows"][0]))
    se = np.array(part["se"].to_list(), float)
    return estimate_unpaired_errors(se if judged else np.zeros_like(se), part["df"][0])


def _stack(deviations: pl.Series, points: int) -> Floats:
    """Return an array [curves, points, groups] from a column of lists (points) of lists (groups)."""
    return deviations.explode().explode().to_numpy().reshape(len(deviations), points, -1)


def _judged_columns(shapes: CurveShapes, at: Floats) -> dict[str, Any]:
    each = np.arange(len(at))
    main, moves = (
        [[_describe(move, places) for move in found] for found, places in zip(each_curve, at, strict=True)]
        for each_curve in (shapes.main, shapes.moves)
    )
    places = {"top_low": at[each, shapes.peak_first], "top_high": at[each, shapes.peak_last]}
    heights = {"height_low": shapes.height_low, "height_high": shapes.height_high}
    return {"main": main, "moves": moves, "peaked": shapes.peaked} | places | heights


def _describe(move: Move, at: Floats) -> dict[str, Any]:
    ends = {"first": float(at[move.first]), "last": float(at[move.last])}
    return {"direction": move.direction, **ends, "size": move.size, "size_low": move.low, "size_high": move.high}
