"""The dome: does anisotropy over depth rise to an interior peak, in which models, with and without sink tokens?

Profiles are over the outputs of the blocks. The state after the final norm is another kind of object and left out.
"""

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
"""Models whose numbers of parameters differ by more are not matched."""
SUM_COVERAGE = "at least 90 %"
"""How often the sum of two 95 % intervals holds, whatever goes together with what."""
CURVE_COLUMNS = ("verdict", "height", "height_low", "height_high", "top", "top_low", "top_high")


def compute_newest_domes(lake: LakeOrFrame) -> pl.DataFrame:
    """Whether the newest checkpoint of each history has a dome.

    Columns: keys of a history, `revision`, `step`, `verdict` (dome, valley, rising, falling, flat, too_few, no_errors),
    `height` above the higher end with its 95 % interval, `peak` and its `depth` with the range of those that may be it,
    the same without sink tokens (`no_sink_*`), `rows` and `because`.
    """
    return _domes(select_newest_rows(load_layer_rows(lake)))


def compute_all_domes(lake: LakeOrFrame) -> pl.DataFrame:
    """As `dome`, of every checkpoint."""
    return _domes(load_layer_rows(lake))


def match_encoders_to_decoders(lake: LakeOrFrame) -> pl.DataFrame:
    """Each encoder against the decoder nearest to it in size, on the same corpus by the same recipe.

    Columns: `model` (the encoder), `decoder`, `corpus`, `recipe`, both sizes, `verdict` (decoder_domed_more,
    encoder_domed_more, alike, no_match, no_errors), both `height`s (below 0 where there is no dome), their `difference`
    (decoder - encoder) with an interval that holds in 90 % at least, the sum of both, `rows` and `because`. Where one
    is said to be domed more, the intervals do not overlap; which of the two is more anisotropic is another question.
    """
    frame = select_newest_rows(load_layer_rows(lake))
    sizes = frame.group_by(HISTORY_COLUMNS).agg(pl.col("n_params").max())
    found = _domes(frame).join(sizes, on=HISTORY_COLUMNS, nulls_equal=True)
    sides = ["model", "corpus", "recipe", "n_params", "height", "height_low", "height_high", "rows"]
    encoders, decoders = (found.filter(kind=kind).select(sides) for kind in ("encoder", "decoder"))
    pairs = encoders.join(decoders.rename({"model": "decoder"}), on=["corpus", "recipe"], how="left", suffix="_decoder")
    apart = (pl.col("n_params").log() - pl.col("n_params_decoder").log()).abs()
    pairs = pairs.with_columns(_apart=apart).sort("_apart", "decoder", "height_decoder", "height", nulls_last=True)
    pairs = pairs.group_by("model", "corpus", "recipe", maintain_order=True).first()
    near = (pl.col("_apart") <= pl.lit(SIZE_RATIO).log()).fill_null(False)
    low = pl.col("height_low_decoder") - pl.col("height_high")
    high = pl.col("height_high_decoder") - pl.col("height_low")
    pairs = pairs.with_columns(
        difference=pl.when(near).then(pl.col("height_decoder") - pl.col("height")),
        difference_low=pl.when(near).then(low),
        difference_high=pl.when(near).then(high),
        rows=pl.col("rows") + pl.col("rows_decoder").fill_null(0),
        verdict=pl.when(~near)
        .then(pl.lit("no_match"))
        .when(low.is_null())
        .then(pl.lit("no_errors"))
        .when(low > 0)
        .then(pl.lit("decoder_domed_more"))
        .when(high < 0)
        .then(pl.lit("encoder_domed_more"))
        .otherwise(pl.lit("alike")),
    ).with_columns(pl.when(near).then(name).alias(name) for name in ("decoder", "n_params_decoder", "height_decoder"))
    kept = [
        "model",
        "decoder",
        "corpus",
        "recipe",
        "n_params",
        "n_params_decoder",
        "verdict",
        "height",
        "height_decoder",
    ]
    kept += ["difference", "difference_low", "difference_high", "rows"]
    return add_because_column(pairs.select(kept), _match_sentence)


def _domes(frame: pl.DataFrame) -> pl.DataFrame:
    by, frame = (*HISTORY_COLUMNS, *LABEL_COLUMNS), select_block_rows(frame)
    shapes, bare = (
        tabulate_curve_shapes(frame, by, "depth", name, f"{name}_se", VERDICT_BY_SHAPE, ends=True)
        for name in ("anisotropy", "anisotropy_no_sink")
    )
    without = bare.select(*by, *(pl.col(name).alias(f"no_sink_{name}") for name in CURVE_COLUMNS))
    depth = {f"{side}top{end}": f"{side}depth{end}" for side in ("", "no_sink_") for end in ("", "_low", "_high")}
    both = shapes.join(without, on=by, how="left", nulls_equal=True).rename(depth | {"top_value": "peak"})
    return add_because_column(both.sort(by), _dome_sentence)


def _dome_sentence(row: dict[str, Any]) -> str:
    said = {
        "dome": "peaks inside, at depth {depth:.2f}, {height} above the higher end",
        "valley": "is lower inside than at both ends; its highest block is at depth {depth:.2f}",
        "rising": "rises with depth and does not surely fall again; it is highest at depth {depth:.2f}",
        "falling": "falls with depth; it is highest at depth {depth:.2f}",
        "flat": "does not surely differ between blocks; the highest inside is {height} above the higher end",
        "too_few": "has fewer than three blocks, so it has no interior",
        "no_errors": "comes without standard errors; the highest block inside is {height} above the higher end",
    }[row["verdict"]]
    said = said.format(depth=row["depth"], height=format_interval(row, "height"))
    bare = (row["no_sink_verdict"] or "unknown").replace("_", " ")
    return f"Anisotropy {said}; without sink tokens: {bare}, {format_interval(row, 'no_sink_height')}."


def _match_sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "no_match":
        return f"No decoder within a factor {SIZE_RATIO:g} of {row['n_params'] or 'an unknown number of'} parameters."
    if row["difference"] is None:
        return "Of the two, one has fewer than three blocks, so it has no interior."
    word = "surely" if row["verdict"].endswith("more") else "not surely"
    heights = f"{row['height_decoder']:+.3f} in {row['decoder']} and {row['height']:+.3f} in {row['model']}"
    apart = f"{word} apart, by {format_interval(row, 'difference', level=SUM_COVERAGE)}"
    return f"From the higher end to the highest block inside it is {heights} (below 0 is no dome): {apart}."
