"""Changes of dimension under two controls: one point per token type, and Gaussian points of the same covariance.

Occurrences of the same token form clusters, and dimension changes where these clusters form or dissolve. A Gaussian
surrogate shows the dimension that the covariance alone gives. The change of a history is the largest main move of log
dimension. It is compared with the difference of the control's log dimension between the same two checkpoints or blocks.
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import stdtrit

from pipeline.analysis.claims import decide, describe_claim
from pipeline.analysis.curves import tabulate_curves
from pipeline.analysis.dimension import average_blocks, select_log_dimension
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_block_rows,
    select_history_rows,
    select_newest_rows,
)
from pipeline.analysis.group_errors import ERROR_COLUMNS, paired_half_width

REFERENCE = "id_mle"
CONTROLS = {"types": "id_mle_types", "gaussian": "id_mle_gaussian"}
KEPT_SHARE = 0.5
"""A change is `kept` if more than this share of it is left under a control, and `lost` if less than this share is."""
KEPT, LOST, UNDECIDED, NO_CHANGE, NO_CONTROL = "kept", "lost", "undecided", "no_change", "no_control"


def compute_controls(lake: LakeOrFrame) -> pl.DataFrame:
    """Compute the share of the largest change of dimension that is left under each control.

    Columns, one row per history, curve and control:

    - the keys of a history
    - `over`, the curve: `training` is the mean of dimension over the blocks at each step; `depth` is dimension of each
      block at the newest checkpoint
    - `control`: `types` has at most one point per token type; `gaussian` has Gaussian points with the covariance of the
      ordinary tokens
    - `verdict`:
        - `kept`: more than half of the change is left (95 %).
        - `lost`: less than half of the change is left (95 %).
        - `undecided`: the interval of the share contains a half.
        - `no_change`: the curve has no significant change.
        - `no_control`: the control or its errors were not measured.
    - `claim`: for `types`, that clusters of equal tokens do not explain the change (`supports` if it is kept); for
      `gaussian`, that the covariance alone does not explain it (`supports` if it is lost); `contradicts` in the reverse
      case, else `undecided`
    - `first`, `last`: steps or depths between which the change takes place
    - `change`, `controlled`: change of dimension without and with the control, as a ratio of dimensions minus 1
    - `left`, `left_low`, `left_high`: change of log dimension with the control, as a share of that without it, with its
      95 % interval
    - `paired`: true if the interval is paired
    - `rows`: number of points of the curve
    - `because`: the result in one or two sentences

    Bias: the change is selected as the largest of the curve without the control, so it is likely overestimated. This
        favours `lost` where the change is barely significant.
    """
    frame = load_layer_rows(lake)
    names = (REFERENCE, *CONTROLS.values())
    newest = select_log_dimension(select_block_rows(select_newest_rows(frame)), names)
    parts = {
        "training": (average_blocks(select_log_dimension(select_history_rows(frame), names)), "step"),
        "depth": (newest, "depth"),
    }
    found = [_compare(points.rename({at: "at"}), over) for over, (points, at) in parts.items()]
    return add_because_column(pl.concat(found).sort(*HISTORY_COLUMNS, "over", "control", nulls_last=True), _sentence)


_NUMBERS = ("first", "last", "change", "controlled", "left", "left_low", "left_high")
_TYPES: dict[str, Any] = {name: pl.String() for name in (*HISTORY_COLUMNS, "over", "control")}
_TYPES |= {name: pl.Float64() for name in _NUMBERS} | {"paired": pl.Boolean(), "rows": pl.Int64()}


def _compare(points: pl.DataFrame, over: str) -> pl.DataFrame:
    """Return one row per history and control, with the largest change of the history and what the control shows."""
    keep = [*HISTORY_COLUMNS, "estimator", "at", "contexts_digest", *ERROR_COLUMNS]
    points = points.select(keep).with_columns(pl.col("at").cast(pl.Float64)).filter(pl.col("value").is_not_null())
    curves = tabulate_curves(points.filter(estimator=REFERENCE), HISTORY_COLUMNS, "at")
    known = {tuple(row[:_KEYS]): _Point(*row[_KEYS:]) for row in points.iter_rows()}
    found = []
    for row in curves.iter_rows(named=True):
        keys = {name: row[name] for name in HISTORY_COLUMNS}
        move = max(row["main"] or (), key=lambda move: abs(move["size"]), default=None)
        for control, name in CONTROLS.items():
            base = keys | {"over": over, "control": control, "rows": row["rows"]}
            found.append(base | (_control(known, tuple(keys.values()), move, name) if move else {}))
    table = pl.DataFrame(found, schema=_TYPES)
    return table.with_columns(verdict=_verdict()).with_columns(claim=_claim())


_KEYS = len(HISTORY_COLUMNS) + 2
"""Number of columns that identify a point: the keys of a history, the estimator, and the step or depth."""


class _Point(NamedTuple):
    contexts: str | None
    value: float
    se: float | None
    df: int | None
    deviations: list[float] | None


def _control(known: dict[Any, _Point], keys: tuple[Any, ...], move: dict[str, Any], control: str) -> dict[str, Any]:
    """Return the columns of the change between the ends of a move: without the control, with it, and the share left."""
    ends = [move["first"], move["last"]]
    plain, controlled = ([known.get((*keys, name, at)) for at in ends] for name in (REFERENCE, control))
    row: dict[str, Any] = {"first": ends[0], "last": ends[1], "change": float(np.expm1(move["size"]))}
    points = [point for point in (*plain, *controlled) if point is not None]
    if len(points) < 4:
        return row
    before, after, bare_before, bare_after = points
    left = (bare_after.value - bare_before.value) / (after.value - before.value)
    row |= {"controlled": float(np.expm1(bare_after.value - bare_before.value)), "left": left}
    half, paired = _half_width(points, left)
    if half is None:
        return row | {"paired": paired}
    half /= abs(after.value - before.value)
    return row | {"left_low": left - half, "left_high": left + half, "paired": paired}


def _half_width(points: list[_Point], left: float) -> tuple[float | None, bool]:
    """Return the half width of the interval of (change with control - left * change), and True if it is paired.

    It is exact to first order in the errors; None if an error is unknown.
    """
    weights = np.array([left, -left, -1, 1])
    lists = [point.deviations for point in points]
    digests, lengths = {point.contexts for point in points}, {len(each or ()) for each in lists}
    if len(digests) == 1 and None not in digests and len(lengths) == 1 and 0 not in lengths:
        return paired_half_width(weights @ np.array(lists)), True
    if any(point.se is None or not point.df for point in points):
        return None, False
    errors = weights * np.array([point.se for point in points])
    return float(stdtrit(min(point.df or 1 for point in points), 0.975) * np.sqrt((errors**2).sum())), False


def _verdict() -> pl.Expr:
    low, high = pl.col("left_low"), pl.col("left_high")
    cases = pl.when(pl.col("change").is_null()).then(pl.lit(NO_CHANGE))
    cases = cases.when(low.is_null()).then(pl.lit(NO_CONTROL)).when(low > KEPT_SHARE).then(pl.lit(KEPT))
    return cases.when(high < KEPT_SHARE).then(pl.lit(LOST)).otherwise(pl.lit(UNDECIDED))


def _claim() -> pl.Expr:
    """Return the answer to the claim about each control (CLAIMS).

    That about `types` is supported by a kept change and contradicted by a lost one; for `gaussian` it is the reverse.
    """
    kept, lost, types = pl.col("verdict") == KEPT, pl.col("verdict") == LOST, pl.col("control") == "types"
    return pl.when(types).then(decide(kept, lost)).otherwise(decide(lost, kept))


CLAIMS = {
    "types": "clusters of equal tokens do not explain the change",
    "gaussian": "the covariance alone does not explain the change",
}


def _sentence(row: dict[str, Any]) -> str:
    subject = {"training": "in training (mean over blocks)", "depth": "over depth (newest checkpoint)"}[row["over"]]
    if row["verdict"] == NO_CHANGE:
        return f"Dimension {subject} has no significant change, or too few points or no errors."
    place, form = ("step", ",.0f") if row["over"] == "training" else ("depth", ".2f")
    change = f"from {place} {row['first']:{form}} to {row['last']:{form}} by {row['change']:+.0%}"
    control = {"types": "with one point per token type", "gaussian": "in Gaussian points of equal covariance"}
    text = f"The largest change of dimension {subject} is {change}"
    if row["verdict"] == NO_CONTROL:
        return f"{text}; its value {control[row['control']]} or its error was not measured."
    left = f"{format_interval(row, 'left', '.0%')} of it, on a log scale, is left"
    return f"{text}; {left} {control[row['control']]}. {describe_claim(row['claim'], CLAIMS[row['control']])}"
