"""The dome: an interior peak of anisotropy over depth, with and without sink tokens.

A profile has the anisotropy of the outputs of the blocks. The embedding and the state after the final norm are left
out, since they are no outputs of blocks.
"""

from typing import Any

import polars as pl

from pipeline.analysis.claims import decide, describe_claim, describe_left_out, describe_pairing
from pipeline.analysis.curves import JUDGED, tabulate_curves
from pipeline.analysis.dimension import MANY_MOVES, make_words
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
from pipeline.analysis.group_errors import add_errors

WORDS = make_words(none="flat", r="rising", f="falling", fr="valley")
DOME, BUMP, NO_ENDS = "dome", "bump", "no_ends"
SMALLEST_DOME = 0.05
"""Smallest height of a dome above the higher end of the profile. Published domes have heights of 0.2 to 0.7."""
YES, NO, OPEN = "yes", "no", "undecided"
CURVE_COLUMNS = ("verdict", "claim", "has_dome", "height", "height_low", "height_high", "top", "top_low", "top_high")


def compute_newest_domes(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the profile of the newest checkpoint of each history.

    Columns, one row per history:

    - the keys of a history, `revision`, `step`
    - `verdict`:
        - `dome`: a significant interior peak of at least 0.05 above the higher end of the profile.
        - `bump`: a significant interior peak of less than 0.05 above the higher end.
        - `rising`, `falling`, `valley`, `flat`: no such peak; these are the main moves over depth.
        - `oscillating`: no such peak; there are more main moves.
        - `too_few`: anisotropy is known in fewer than three blocks.
        - `no_errors`: anisotropy has no standard errors.
        - `no_ends`: the first or the last block has no value or no error.
    - `claim` (a decoder has a dome, an encoder has none): `supports`, `contradicts` or `undecided`
    - `has_dome`: `yes` for the verdict dome; `no` if the height is under 0.05 (95 %); else `undecided`
    - `height`, `height_low`, `height_high`: height of the highest interior block above the higher end, with its 95 %
      interval
    - `depth`, `depth_low`, `depth_high`: depth of the peak, or of the highest block, with its 95 % interval
    - `peak`: anisotropy there
    - `no_sink_*`: verdict, claim, has_dome, height and depth of the profile without sink tokens
    - `rows`, `paired`, `left_out` depths: as in `curves.tabulate_curves`
    - `because`: the result in a few sentences
    """
    return classify_domes(select_newest_rows(load_layer_rows(lake)))


def compute_all_domes(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the profile of every checkpoint; the columns are those of `compute_newest_domes`."""
    return classify_domes(load_layer_rows(lake))


def classify_domes(frame: pl.DataFrame) -> pl.DataFrame:
    """Classify the profile of every label in the frame; the columns are those of `compute_newest_domes`."""
    by = (*HISTORY_COLUMNS, *LABEL_COLUMNS)
    shapes, no_sink = (_classify(frame, name, by) for name in ("anisotropy", "anisotropy_no_sink"))
    without = no_sink.select(*by, *(pl.col(name).alias(f"no_sink_{name}") for name in CURVE_COLUMNS))
    depth = {f"{side}top{end}": f"{side}depth{end}" for side in ("", "no_sink_") for end in ("", "_low", "_high")}
    both = shapes.join(without, on=by, how="left", nulls_equal=True).rename(depth | {"top_value": "peak"})
    kept = both.drop("main", "peaked", "range", "start", "stop", "moves")
    return add_because_column(kept.sort(by), _sentence).drop("status")


def _classify(frame: pl.DataFrame, name: str, by: tuple[str, ...]) -> pl.DataFrame:
    points = add_errors(select_block_rows(frame), name)
    points = points.filter(pl.col("value").is_not_null().any().over(by))
    curves = tabulate_curves(points, by, "depth", ends=True)
    curves = curves.with_columns(verdict=_name_verdict(curves))
    return curves.with_columns(has_dome=_has_dome()).with_columns(claim=_claim())


def _name_verdict(curves: pl.DataFrame) -> pl.Expr:
    """Return the expression of the verdict.

    A profile with a peak above both ends is named after the peak, whatever its other moves are; any other profile is
    named after its main moves.
    """
    names = [WORDS.name(main) if main is not None else None for main in curves["main"].to_list()]
    cut = (pl.col("left_out").list.min() < pl.col("start")) | (pl.col("left_out").list.max() > pl.col("stop"))
    cases = pl.when(pl.col("status") != JUDGED).then("status").when(cut.fill_null(False)).then(pl.lit(NO_ENDS))
    high = pl.col("height") >= SMALLEST_DOME
    cases = cases.when(pl.col("peaked") & high).then(pl.lit(DOME)).when("peaked").then(pl.lit(BUMP))
    return cases.otherwise(pl.Series("_name", names, pl.String))


def _has_dome() -> pl.Expr:
    judged = (pl.col("status") == JUDGED) & (pl.col("verdict") != NO_ENDS)
    cases = pl.when(judged & (pl.col("verdict") == DOME)).then(pl.lit(YES))
    return cases.when(judged & (pl.col("height_high") < SMALLEST_DOME)).then(pl.lit(NO)).otherwise(pl.lit(OPEN))


def _claim() -> pl.Expr:
    domed, none = pl.col("has_dome") == YES, pl.col("has_dome") == NO
    decoder = pl.col("kind").str.ends_with("decoder")
    return pl.when(decoder).then(decide(domed, none)).otherwise(decide(none, domed))


def _sentence(row: dict[str, Any]) -> str:
    text = {
        DOME: "peaks in the interior, at depth {depth:.2f}, {height} above the higher end",
        BUMP: "has an interior maximum of only {height} above the higher end, at depth {depth:.2f}",
        "valley": "falls and then rises with depth; it is highest at depth {depth:.2f}",
        "rising": "rises with depth, without a significant fall after the peak; it is highest at depth {depth:.2f}",
        "falling": "falls with depth; it is highest at depth {depth:.2f}",
        MANY_MOVES: "rises and falls with depth, without a peak above both ends; it is highest at depth {depth:.2f}",
        "flat": "varies within error (95 %) between blocks; its interior maximum is {height} above the higher end",
        "too_few": "is known in fewer than three blocks, so the profile has no interior",
        "no_errors": "has no standard errors; its interior maximum is {height} above the higher end",
        NO_ENDS: "is not known at the first or the last block, so a dome cannot be judged",
    }[row["verdict"]]
    text = text.format(depth=row["depth"], height=format_interval(row, "height"))
    claim = "decoders have a dome" if row["kind"].endswith("decoder") else "encoders have no dome"
    no_sink = (row["no_sink_verdict"] or "unknown").replace("_", " ")
    without = f"without sink tokens: {no_sink}, {format_interval(row, 'no_sink_height')}"
    ending = f"{describe_pairing(row)}{describe_left_out(row['left_out'], 'depth', '.2f')}"
    return f"Anisotropy {text}; {without}. {describe_claim(row['claim'], claim)}{ending}"
