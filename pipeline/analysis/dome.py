"""The dome: an interior peak of anisotropy over depth, with and without sink tokens.

Profiles cover the outputs of the blocks. The state after the final norm is a different kind of object and is left out.
"""

from functools import partial
from typing import Any

import polars as pl

from pipeline.analysis.curve_shapes import FALLING, FLAT, PEAK, RISING, VALLEY
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LABEL_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_block_rows,
    select_newest_rows,
    tabulate_curve_shapes,
)

VERDICT_BY_SHAPE = {PEAK: "dome", VALLEY: "valley", RISING: "rising", FALLING: "falling", FLAT: "flat"}
SIZE_RATIO = 2.0
"""Largest ratio of the parameter counts of a matched pair."""
SUM_COVERAGE = "at least 90 %"
"""Guaranteed coverage of the sum of two 95 % intervals, whatever the dependence between the two."""
CURVE_COLUMNS = ("verdict", "height", "height_low", "height_high", "top", "top_low", "top_high")


def compute_newest_domes(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the profile of the newest checkpoint of each history.

    Columns: keys of a history, `revision`, `step`, `verdict` (dome, valley, rising, falling, flat, too_few, no_errors),
    `height` above the higher end with its 95 % interval, `peak` and its `depth` with its 95 % interval, the same
    without sink tokens (`no_sink_*`), `rows` and `because`.
    """
    return _domes(select_newest_rows(load_layer_rows(lake)))


def compute_all_domes(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the profile of every checkpoint; columns as in `compute_newest_domes`."""
    return _domes(load_layer_rows(lake))


def match_encoders_to_decoders(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare each encoder with the decoder nearest in size, on the same corpus and recipe.

    Columns: `model` (the encoder), `decoder`, `corpus`, `recipe`, both sizes, `verdict` (decoder_domed_more,
    encoder_domed_more, alike, no_match, no_errors), both `height`s (negative without a dome), their `difference`
    (decoder - encoder) with the sum of both intervals, which covers at least 90 %, `rows` and `because`. `*_domed_more`
    means that the two 95 % intervals do not overlap. The verdict does not say which model is more anisotropic.
    """
    frame = select_newest_rows(load_layer_rows(lake))
    sizes = frame.group_by(HISTORY_COLUMNS).agg(pl.col("n_params").max())
    domes = _domes(frame).join(sizes, on=HISTORY_COLUMNS, nulls_equal=True)
    sides = ["model", "corpus", "recipe", "n_params", "height", "height_low", "height_high", "rows"]
    encoders, decoders = (domes.filter(kind=kind).select(sides) for kind in ("encoder", "decoder"))
    pairs = encoders.join(decoders.rename({"model": "decoder"}), on=["corpus", "recipe"], how="left", suffix="_decoder")
    apart = (pl.col("n_params").log() - pl.col("n_params_decoder").log()).abs()
    pairs = pairs.with_columns(_apart=apart).sort("_apart", "decoder", "height_decoder", "height", nulls_last=True)
    pairs = pairs.group_by("model", "corpus", "recipe", maintain_order=True).first()
    near = (pl.col("_apart") <= pl.lit(SIZE_RATIO).log()).fill_null(False)
    low = pl.col("height_low_decoder") - pl.col("height_high")
    high = pl.col("height_high_decoder") - pl.col("height_low")
    cases = pl.when(~near).then(pl.lit("no_match")).when(low.is_null()).then(pl.lit("no_errors"))
    cases = cases.when(low > 0).then(pl.lit("decoder_domed_more"))
    pairs = pairs.with_columns(
        difference=pl.when(near).then(pl.col("height_decoder") - pl.col("height")),
        difference_low=pl.when(near).then(low),
        difference_high=pl.when(near).then(high),
        rows=pl.col("rows") + pl.col("rows_decoder").fill_null(0),
        verdict=cases.when(high < 0).then(pl.lit("encoder_domed_more")).otherwise(pl.lit("alike")),
    ).with_columns(pl.when(near).then(name).alias(name) for name in ("decoder", "n_params_decoder", "height_decoder"))
    kept = ["model", "decoder", "corpus", "recipe", "n_params", "n_params_decoder", "verdict", "height"]
    kept += ["height_decoder", "difference", "difference_low", "difference_high", "rows"]
    return add_because_column(pairs.select(kept), _match_sentence)


def _domes(frame: pl.DataFrame) -> pl.DataFrame:
    by, frame = (*HISTORY_COLUMNS, *LABEL_COLUMNS), select_block_rows(frame)
    shape = partial(tabulate_curve_shapes, frame, by, "depth", words=VERDICT_BY_SHAPE, ends=True)
    shapes, no_sink = (shape(name, f"{name}_se") for name in ("anisotropy", "anisotropy_no_sink"))
    without = no_sink.select(*by, *(pl.col(name).alias(f"no_sink_{name}") for name in CURVE_COLUMNS))
    depth = {f"{side}top{end}": f"{side}depth{end}" for side in ("", "no_sink_") for end in ("", "_low", "_high")}
    both = shapes.join(without, on=by, how="left", nulls_equal=True).rename(depth | {"top_value": "peak"})
    return add_because_column(both.sort(by), _dome_sentence)


def _dome_sentence(row: dict[str, Any]) -> str:
    text = {
        "dome": "peaks in the interior, at depth {depth:.2f}, {height} above the higher end",
        "valley": "is significantly lower in the interior than at both ends; it is highest at depth {depth:.2f}",
        "rising": "rises with depth, without a significant fall after the peak; it is highest at depth {depth:.2f}",
        "falling": "falls with depth; it is highest at depth {depth:.2f}",
        "flat": "varies within error (95 %) between blocks; its interior maximum is {height} above the higher end",
        "too_few": "is known in fewer than three blocks, so the profile has no interior",
        "no_errors": "has no standard errors; its interior maximum is {height} above the higher end",
    }[row["verdict"]]
    text = text.format(depth=row["depth"], height=format_interval(row, "height"))
    no_sink = (row["no_sink_verdict"] or "unknown").replace("_", " ")
    return f"Anisotropy {text}; without sink tokens: {no_sink}, {format_interval(row, 'no_sink_height')}."


def _match_sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "no_match":
        return f"No decoder within a factor {SIZE_RATIO:g} of {row['n_params'] or 'an unknown number of'} parameters."
    if row["difference"] is None:
        return "One of the two models has fewer than three blocks, so its profile has no interior."
    words = {"alike": "within error", "no_errors": "of unknown error"}
    heights = f"{row['height_decoder']:+.3f} in {row['decoder']} and {row['height']:+.3f} in {row['model']}"
    difference = f"{words.get(row['verdict'], 'significant')}: {format_interval(row, 'difference', level=SUM_COVERAGE)}"
    text = f"The highest interior block exceeds the higher end by {heights} (negative: no dome)."
    return f"{text} The difference is {difference}."
