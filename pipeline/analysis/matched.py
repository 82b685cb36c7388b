"""Comparison of encoders and decoders of similar size: which have a dome, and which are more anisotropic in the middle
third of their blocks."""

from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.claims import decide, describe_claim
from pipeline.analysis.dome import NO, YES, classify_domes
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_block_rows,
    select_newest_rows,
    t_quantile,
)
from pipeline.analysis.group_errors import add_errors, average_points, paired_half_width, subtract_intervals

SIZE_RATIO = 2.0
"""Largest ratio of the parameter counts of a matched pair."""
MIDDLE_THIRD = (1 / 3 - 1e-9, 2 / 3 + 1e-9)
"""Smallest and largest depth of a block in the middle third."""
SIDES = {"": "anisotropy", "_no_sink": "anisotropy_no_sink"}
"""Metric by the suffix of the columns that are about it: anisotropy of all tokens, and without sink tokens."""
CLAIM = "decoders have a dome and encoders of their size have none"
ENDS = ("", "_low", "_high")


def match_encoders_to_decoders(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare each encoder with every decoder of similar size on the same corpus by the same recipe.

    Sizes are similar if the numbers of parameters differ by at most a factor 2. The newest checkpoints are compared.

    Columns, one row per pair, and one row per encoder without a decoder of similar size:

    - `model` (the encoder), `decoder`, `corpus`, `recipe`, `n_params` (of the encoder), `n_params_decoder`
    - `verdict`:
        - `decoder_domed_more`: the decoder has a dome, and the encoder has none or a significantly lower one.
        - `encoder_domed_more`: the encoder has a dome, and the decoder has none or a significantly lower one.
        - `both_domed`: both have a dome, and neither is significantly higher.
        - `no_dome`: neither has a dome.
        - `undecided`: it is undecided whether one of them has a dome.
        - `no_match`: the lake has no decoder of similar size.
        - `no_errors`: the difference of the heights has no interval.
    - `claim` (decoders have a dome and encoders of their size have none): `supports` if this holds for the pair,
      `contradicts` if the decoder has no dome or the encoder has one, else `undecided`
    - `encoder_dome`, `decoder_dome`: `yes`, `no` or `undecided`, as `has_dome` of the finding `dome`
    - `height_encoder`, `height_decoder`: heights as in the finding `dome`
    - `difference`: height of the decoder minus that of the encoder
    - `more_anisotropic`: `decoder`, `encoder` or `undecided`, by `middle_difference`
    - `middle_encoder`, `middle_decoder`: mean anisotropy over the middle third of the blocks
    - `middle_difference`: that of the decoder minus that of the encoder
    - columns with the ending `_no_sink`: all of these without sink tokens
    - `rows`: number of blocks in the profiles of both models
    - `because`: the result in a few sentences

    Heights and differences have 95 % intervals in the columns with the endings `_low` and `_high`. Those of differences
    combine the intervals of both models; that of `middle_difference` is paired if both models read the same contexts.
    """
    frame = select_newest_rows(load_layer_rows(lake))
    sides = _summarize_sides(frame)
    encoders, decoders = (sides.filter(pl.col("kind") == kind).drop("kind") for kind in ("encoder", "decoder"))
    near = (pl.col("n_params").log() - pl.col("n_params_decoder").log()).abs() <= pl.lit(SIZE_RATIO).log()
    renamed = decoders.rename({name: f"{name}_decoder" for name in decoders.columns if name not in _ON})
    pairs = encoders.join(renamed, on=_ON, how="inner").filter(near.fill_null(False))
    alone = encoders.join(pairs, on=["model", *_ON], how="anti")
    pairs = pl.concat([pairs, alone], how="diagonal").sort("model", *_ON, "model_decoder", nulls_last=True)
    for side in SIDES:
        pairs = _judge(pairs, side)
    rows = pl.col("rows") + pl.col("rows_decoder").fill_null(0)
    pairs = pairs.with_columns(rows=rows).rename({"model_decoder": "decoder"})
    return add_because_column(pairs.select(_columns()), _sentence)


_ON = ["corpus", "recipe"]


def _columns() -> list[str]:
    kept = ["model", "decoder", *_ON, "n_params", "n_params_decoder"]
    for side in SIDES:
        kept += [f"{name}{side}" for name in ("verdict", "claim", "encoder_dome", "decoder_dome")]
        numbers = ("height_encoder", "height_decoder", "difference")
        kept += [f"{name}{side}{end}" for name in numbers for end in ENDS]
        kept += [f"more_anisotropic{side}", f"middle_encoder{side}", f"middle_decoder{side}"]
        kept += [f"middle_difference{side}{end}" for end in ENDS]
    return [*kept, "rows"]


def _summarize_sides(frame: pl.DataFrame) -> pl.DataFrame:
    """Return one row per history with the number of parameters, the domes, and the means over the middle third."""
    sizes = frame.group_by(HISTORY_COLUMNS).agg(pl.col("n_params").max())
    domes = classify_domes(frame).join(sizes, on=HISTORY_COLUMNS, nulls_equal=True)
    names: dict[str, pl.Expr] = {}
    for side, prefix in (("", ""), ("_no_sink", "no_sink_")):
        names |= {f"height{side}{end}": pl.col(f"{prefix}height{end}") for end in ENDS}
        names |= {f"has_dome{side}": pl.col(f"{prefix}has_dome")}
    found = domes.select(*HISTORY_COLUMNS, "n_params", "rows", **names)
    for side, name in SIDES.items():
        found = found.join(_average_middle(frame, name, side), on=HISTORY_COLUMNS, how="left", nulls_equal=True)
    return found.drop("stage", "run")


def _average_middle(frame: pl.DataFrame, name: str, side: str) -> pl.DataFrame:
    middle = select_block_rows(frame).filter(pl.col("depth").is_between(*MIDDLE_THIRD))
    means = average_points(add_errors(middle, name), [*HISTORY_COLUMNS, "contexts_digest"])
    half = t_quantile(pl.col("df") + 1) * pl.col("se")
    limits = {"": pl.col("value"), "_low": pl.col("value") - half, "_high": pl.col("value") + half}
    named = {f"middle{side}{end}": limit for end, limit in limits.items()}
    rest = {f"deviations{side}": "deviations", f"contexts{side}": "contexts_digest"}
    return means.select(*HISTORY_COLUMNS, **named, **rest).unique(HISTORY_COLUMNS, maintain_order=True)


def _judge(pairs: pl.DataFrame, side: str) -> pl.DataFrame:
    """Add the columns of heights, middle thirds, their differences, verdict and claim that have the suffix `side`."""
    names = {f"{name}{side}{end}": f"{name}_encoder{side}{end}" for name in ("height", "middle") for end in ENDS}
    names |= {
        f"{name}{side}{end}_decoder": f"{name}_decoder{side}{end}" for name in ("height", "middle") for end in ENDS
    }
    names |= {f"has_dome{side}": f"encoder_dome{side}", f"has_dome{side}_decoder": f"decoder_dome{side}"}
    pairs = pairs.rename(names)
    pairs = pairs.with_columns(
        *subtract_intervals(f"height_decoder{side}", f"height_encoder{side}", f"difference{side}"),
        *subtract_intervals(f"middle_decoder{side}", f"middle_encoder{side}", f"middle_difference{side}"),
    )
    pairs = _pair_middles(pairs, side)
    low, high = (pl.col(f"middle_difference{side}{end}") for end in ENDS[1:])
    more = pl.when(low > 0).then(pl.lit("decoder")).when(high < 0).then(pl.lit("encoder"))
    more = more.otherwise(pl.lit("undecided"))
    encoder, decoder = pl.col(f"encoder_dome{side}"), pl.col(f"decoder_dome{side}")
    claim = decide((decoder == YES) & (encoder == NO), (decoder == NO) | (encoder == YES))
    answers = {"verdict": _name_verdict(side), "claim": claim, "more_anisotropic": more}
    return pairs.with_columns(**{f"{name}{side}": answer for name, answer in answers.items()})


def _name_verdict(side: str) -> pl.Expr:
    encoder, decoder = pl.col(f"encoder_dome{side}"), pl.col(f"decoder_dome{side}")
    low, high = (pl.col(f"difference{side}{end}") for end in ENDS[1:])
    cases = pl.when(pl.col("model_decoder").is_null()).then(pl.lit("no_match"))
    cases = cases.when(low.is_null()).then(pl.lit("no_errors"))
    cases = cases.when((decoder == YES) & ((encoder == NO) | (low > 0))).then(pl.lit("decoder_domed_more"))
    cases = cases.when((encoder == YES) & ((decoder == NO) | (high < 0))).then(pl.lit("encoder_domed_more"))
    cases = cases.when((encoder == YES) & (decoder == YES)).then(pl.lit("both_domed"))
    return cases.when((encoder == NO) & (decoder == NO)).then(pl.lit("no_dome")).otherwise(pl.lit("undecided"))


def _pair_middles(pairs: pl.DataFrame, side: str) -> pl.DataFrame:
    """Replace the interval of `middle_difference` by the paired interval where both models read the same contexts."""
    lists = [f"contexts{side}", f"contexts{side}_decoder", f"deviations{side}", f"deviations{side}_decoder"]
    halves: list[float | None] = []
    for mine, other, encoder, decoder in pairs.select(lists).iter_rows():
        same = mine is not None and mine == other and encoder and decoder and len(encoder) == len(decoder)
        halves.append(paired_half_width(np.subtract(decoder, encoder)) if same else None)
    half, name = pl.Series(halves, dtype=pl.Float64), f"middle_difference{side}"
    limits = {"_low": pl.col(name) - half, "_high": pl.col(name) + half}
    return pairs.with_columns(pl.coalesce(limit, f"{name}{end}").alias(f"{name}{end}") for end, limit in limits.items())


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "no_match":
        size = f"{row['n_params']:,}" if row["n_params"] else "an unknown number of"
        return f"The lake has no decoder within a factor {SIZE_RATIO:g} of {size} parameters."
    claim = describe_claim(row["claim"], CLAIM)
    without = describe_claim(row["claim_no_sink"], CLAIM)
    return f"{_answers(row, '')} {claim} Without sink tokens: {_answers(row, '_no_sink')} {without}"


def _answers(row: dict[str, Any], side: str) -> str:
    """Return the sentences on the domes of both models and on their middle thirds."""
    return f"{_describe_domes(row, side)} {_describe_middle(row, side)}"


def _describe_domes(row: dict[str, Any], side: str) -> str:
    words = {YES: "has a dome", NO: "has no dome"}
    parts = [
        f"{name} {words.get(row[f'{kind}_dome{side}'], 'may or may not have a dome')} "
        f"(height {format_interval(row, f'height_{kind}{side}')})"
        for kind, name in (("decoder", row["decoder"]), ("encoder", row["model"]))
    ]
    return f"{parts[0]}; {parts[1]}."


def _describe_middle(row: dict[str, Any], side: str) -> str:
    name = f"middle_difference{side}"
    if row[name] is None:
        return "Anisotropy of the middle third is unknown in one of the two."
    size = format_interval(row, name)
    values = (
        f"{row[f'middle_decoder{side}']:.3f} in {row['decoder']}, {row[f'middle_encoder{side}']:.3f} in {row['model']}"
    )
    more = {"decoder": row["decoder"], "encoder": row["model"]}.get(row[f"more_anisotropic{side}"])
    ending = f"{more} is more anisotropic there" if more else "neither is significantly more anisotropic there"
    return f"Anisotropy of the middle third is {values}: {ending} (difference {size})."
