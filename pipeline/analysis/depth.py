"""Intrinsic dimension over depth at the newest checkpoint: the peak of dimension and its onset (Cheng et al. 2025)."""

from typing import Any

import polars as pl

from pipeline.analysis.claims import describe_claim, describe_left_out, describe_moves, describe_pairing
from pipeline.analysis.curve_shapes import RISE
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.dimension import DISPUTED, MANY_MOVES, classify_dimension, make_words, select_log_dimension, vote
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LABEL_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_block_rows,
    select_newest_rows,
)

FLAT = "flat"
WORDS = make_words(
    none=FLAT, r="rising", f="falling", rf="peak", fr="valley", frf="valley-then-peak", rfr="peak-then-valley"
)
SHAPE_PHRASES = {
    "rising": "rises",
    "falling": "falls",
    "peak": "has a peak",
    "valley": "has a valley",
    "valley-then-peak": "has a valley and then a peak",
    "peak-then-valley": "has a peak and then a valley",
}
CLAIM = "dimension has a peak in the interior of the network"
CURVE_COLUMNS = (
    *("verdict", "claim", "depth", "depth_low", "depth_high", "onset", "peak_value"),
    *("height", "height_low", "height_high", "smallest", "moves", "main", "rows", "status", "paired", "left_out"),
)


def compute_depth(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the curve of dimension over the blocks, at the newest checkpoint of each history.

    The estimators of dimension vote, one per scale (`dimension.vote`).
    Columns, one row per history:

    - the keys of a history, `revision`, `step`
    - `verdict`:
        - `flat`: dimension does not change significantly.
        - `rising`, `falling`, `peak`, `valley`, `valley-then-peak`, `peak-then-valley`: these are its main moves.
        - `oscillating`: it has more main moves.
        - `disputed`: no verdict has more than half of the scales.
        - `too_few`: dimension is known in fewer than three blocks.
        - `no_errors`: dimension has no standard errors.
    - `claim` (there is an interior peak): `supports` if the height of the peak is significantly above `smallest`,
      `contradicts` if it is significantly below, else `undecided`
    - `agreeing`, `scales`: number of scales in the largest group with the same verdict, and number of all scales with
      errors
    - `reference`: first estimator of this group; all following columns are about its curve
    - `depth`, `depth_low`, `depth_high`: depth of the peak, or of the highest block, with its 95 % interval
    - `onset`: depth at which the main rise to it starts; null without a rise
    - `peak_value`: dimension there
    - `height`, `height_low`, `height_high`: height of the peak above both sides, as a share of dimension, with its 95 %
      interval
    - `smallest`: height from which a peak counts; 5 %, or a tenth of the curve's range if that is more
    - `moves`, `main`, `rows`, `paired`, `left_out` depths: as in `curves.tabulate_curves`, with sizes as shares
    - `because`: the result in one or two sentences

    Error: at most 5 % of models whose dimension is pure noise over depth get any move.
    """
    of = (*HISTORY_COLUMNS, *LABEL_COLUMNS)
    points = select_log_dimension(select_block_rows(select_newest_rows(load_layer_rows(lake))), labels=True)
    points = points.filter(pl.col("value").is_not_null().any().over(*of, "estimator"))
    curves = classify_dimension(points, of, "depth", WORDS).rename(
        {f"top{e}": f"depth{e}" for e in ("", "_low", "_high")}
    )
    curves = curves.with_columns(onset=_find_onset(curves))
    found = vote(curves, of).select(*of, "agreeing", "scales", "reference", *CURVE_COLUMNS)
    return add_because_column(found.sort(*of, nulls_last=True), _sentence)


def _find_onset(curves: pl.DataFrame) -> pl.Series:
    """Return the depth at which the main rise to the highest block starts, per curve; null without such a rise."""
    onsets = [
        next((move["first"] for move in main or () if move["direction"] == RISE and move["last"] >= top), None)
        for main, top in curves.select("main", "depth").iter_rows()
    ]
    return pl.Series("onset", onsets, pl.Float64)


def _sentence(row: dict[str, Any]) -> str:
    left_out = describe_left_out(row["left_out"], "depth", ".2f")
    if row["verdict"] == TOO_FEW:
        return f"Dimension is known in fewer than three blocks.{left_out}"
    if row["verdict"] == NO_ERRORS:
        return f"Dimension has no standard errors; {row['reference']} is highest at depth {row['depth']:.2f}.{left_out}"
    return (
        f"Dimension over depth {_describe(row)} {describe_claim(row['claim'], CLAIM)}{describe_pairing(row)}{left_out}"
    )


def _describe(row: dict[str, Any]) -> str:
    if row["verdict"] == DISPUTED:
        return f"is disputed: no verdict has more than half of the {row['scales']} scales."
    votes = f"in {row['agreeing']} of {row['scales']} scales"
    if row["verdict"] == FLAT:
        return f"does not change significantly (95 %), {votes}."
    name = "rises and falls repeatedly" if row["verdict"] == MANY_MOVES else SHAPE_PHRASES[row["verdict"]]
    text = f"{name}, {votes}: {row['reference']} {describe_moves(row, 'depth', '.2f')}"
    if row["verdict"] in WORDS.peaked:
        place = f"{row['depth']:.2f} (95 % {row['depth_low']:.2f} to {row['depth_high']:.2f})"
        text += f"; the peak at depth {place} is {format_interval(row, 'height', '.0%')} above both sides"
    return f"{text}."
