"""Phases of training: does intrinsic dimension first expand and then compress, and at which step does it turn?

A history counts as expanding and compressing only if both exceed what selection among noisy steps gives
(`pipeline.analysis.curve_shapes`), which is never less than two standard errors of a difference, in at least three
estimators.
"""

from itertools import combinations
from typing import Any

import polars as pl

from pipeline.analysis.curve_shapes import FALLING, FLAT, PEAK, RISING, VALLEY
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    NO_ERRORS,
    TOO_FEW,
    LakeOrFrame,
    add_because_column,
    load_layer_rows,
    select_block_rows,
    select_history_rows,
    tabulate_curve_shapes,
)

EXPAND_COMPRESS = "expand-compress"
VERDICT_BY_SHAPE = {
    PEAK: EXPAND_COMPRESS,
    VALLEY: "compress-expand",
    RISING: "expand",
    FALLING: "compress",
    FLAT: "flat",
}
HEADLINE_COLUMNS = ("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90")
GRIDE_SCALE_INDEX = {"id_gride_4": 2, "id_gride_16": 4}
"""GRIDE at k = 4 and 16, and where in the lists they stand."""
ESTIMATORS = (*HEADLINE_COLUMNS, *GRIDE_SCALE_INDEX)
MIN_AGREEING_ESTIMATORS = 3
"""Estimators that must say the same."""


def compute_phases(lake: LakeOrFrame) -> pl.DataFrame:
    """What dimension does over training, one row per layer, and one per model (`layer` null): the mean over its blocks.

    Columns: keys of a history, `layer`, `depth`, `verdict` (expand-compress, compress-expand, expand, compress, flat;
    disputed where no word has three estimators; too_few, no_errors), `agreeing` of `estimators`, the `reference` among
    the agreeing, its `peak_step` with interval (`_low`, `_high`: steps not surely below it), `peak_value` in
    dimensions, `height` of the peak above both sides as a share (0.1 = 10 %) with its 95 % interval, `rows`, `because`.
    Error: a layer, and likewise a model, that is all noise is called anything but flat in 5 % of histories at most; a
    lake of many has its share.
    """
    each = classify_by_estimator(lake)
    of = [*HISTORY_COLUMNS, "layer", "depth"]
    judged = each.filter(~pl.col("verdict").is_in([TOO_FEW, NO_ERRORS]))
    counts = judged.group_by(*of, "verdict").agg(agreeing=pl.len())
    counts = counts.with_columns(
        estimators=pl.col("agreeing").sum().over(of),
        _tied=(pl.col("agreeing") == pl.col("agreeing").max().over(of)).sum().over(of) > 1,
    ).sort("agreeing", "verdict", descending=[True, False])
    voted = counts.group_by(of, maintain_order=True).first()
    won = (pl.col("agreeing") >= MIN_AGREEING_ESTIMATORS) & ~pl.col("_tied")
    voted = voted.with_columns(voted=pl.when(won).then("verdict").otherwise(pl.lit("disputed"))).drop("verdict")
    both = each.join(voted, on=of, how="left", nulls_equal=True)
    agrees = (pl.col("verdict") == pl.col("voted")).fill_null(False)
    first = both.sort(~agrees, "_order").group_by(of, maintain_order=True).first()
    said = first.with_columns(
        verdict=pl.coalesce("voted", "verdict"),
        agreeing=pl.col("agreeing").fill_null(0),
        estimators=pl.col("estimators").fill_null(0),
    ).rename({"estimator": "reference"})
    return add_because_column(
        said.drop("voted", "_tied", "_order").sort(*HISTORY_COLUMNS, "layer", nulls_last=True), _sentence
    )


def classify_by_estimator(lake: LakeOrFrame) -> pl.DataFrame:
    """As `phases`, for each estimator alone: `estimator` in place of `reference`, no vote."""
    long = _long(select_history_rows(load_layer_rows(lake)))
    mean = (
        select_block_rows(long)
        .group_by(*HISTORY_COLUMNS, "estimator", "_order", "step", maintain_order=True)
        .agg(
            pl.col("log").mean(),
            # Layers read the same contexts, so their errors go together: that of a mean is at most the mean of theirs.
            pl.when(pl.col("log_se").null_count() == 0).then(pl.col("log_se").mean()).alias("log_se"),
            pl.col("groups").min(),
        )
    )
    blank = pl.lit(None, pl.Int16).alias("layer"), pl.lit(None, pl.Float64).alias("depth")
    together = pl.concat([long.select(*mean.columns, "layer", "depth"), mean.with_columns(*blank)])
    found = tabulate_curve_shapes(
        together, [*HISTORY_COLUMNS, "layer", "depth", "estimator", "_order"], "step", "log", "log_se", VERDICT_BY_SHAPE
    )
    steps = {name: pl.col(name).round().cast(pl.Int64) for name in ("top", "top_low", "top_high")}
    shares = {name: pl.col(name).exp() - 1 for name in ("height", "height_low", "height_high")}
    found = (
        found.sort(*HISTORY_COLUMNS, "layer", "_order", nulls_last=True)
        .with_columns(peak_value=pl.col("top_value").exp(), **steps, **shares)
        .drop("top_value")
    )
    return found.rename({name: name.replace("top", "peak_step") for name in steps})


def compute_estimators(lake: LakeOrFrame) -> pl.DataFrame:
    """`estimates` as a finding, with its sentence."""
    return add_because_column(classify_by_estimator(lake).drop("_order"), _alone)


def compute_agreement(lake: LakeOrFrame) -> pl.DataFrame:
    """How often two estimators say the same of a layer's history.

    Columns: keys of a history, `estimator`, `other`, `rows` (layers that both judge), `same_verdict` (share of them),
    `same_peak` (share whose intervals of the peak's step meet), `verdict` (agree = at least 90 % of verdicts, differ),
    `because`.
    """
    each = classify_by_estimator(lake).filter(
        pl.col("layer").is_not_null() & ~pl.col("verdict").is_in([TOO_FEW, NO_ERRORS])
    )
    on = [*HISTORY_COLUMNS, "layer"]
    pairs = [
        each.filter(estimator=a).join(each.filter(estimator=b), on=on, nulls_equal=True, suffix="_other")
        for a, b in combinations(ESTIMATORS, 2)
    ]
    meet = (pl.col("peak_step_low") <= pl.col("peak_step_high_other")) & (
        pl.col("peak_step_low_other") <= pl.col("peak_step_high")
    )
    table = pl.concat(pairs).group_by(
        *HISTORY_COLUMNS, "estimator", pl.col("estimator_other").alias("other"), maintain_order=True
    )
    found = table.agg(
        rows=pl.len(), same_verdict=(pl.col("verdict") == pl.col("verdict_other")).mean(), same_peak=meet.mean()
    ).with_columns(verdict=pl.when(pl.col("same_verdict") >= 0.9).then(pl.lit("agree")).otherwise(pl.lit("differ")))
    return add_because_column(
        found,
        lambda row: (
            f"{row['estimator']} and {row['other']} say the same of {row['same_verdict']:.0%} of {row['rows']} "
            f"layers; their peaks may be one in {row['same_peak']:.0%}."
        ),
    )


def _long(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per (row, estimator), as the logarithm, on which errors are alike at all heights."""
    columns = [(name, pl.col(name), pl.col(f"{name}_se")) for name in HEADLINE_COLUMNS]
    for name, index in GRIDE_SCALE_INDEX.items():
        at_scale = pl.col("id_gride_k").list.get(index, null_on_oob=True) == int(name.rpartition("_")[2])
        value, se = (pl.col(c).list.get(index, null_on_oob=True) for c in ("id_gride", "id_gride_se"))
        columns.append((name, pl.when(at_scale).then(value), pl.when(at_scale).then(se)))
    kept = [*HISTORY_COLUMNS, "layer", "depth", "state", "step", "groups"]
    frames = [
        frame.filter(value > 0).select(
            *kept,
            estimator=pl.lit(name),
            _order=pl.lit(order),
            log=value.log(),
            log_se=se / value,
        )
        for order, (name, value, se) in enumerate(columns)
    ]
    return pl.concat(frames)


def _alone(row: dict[str, Any]) -> str:
    subject = "The mean over blocks" if row["layer"] is None else f"Layer {row['layer']}"
    said = f"{subject} by {row['estimator']} is highest at step {row['peak_step']}"
    low, high = row["peak_step_low"], row["peak_step_high"]
    return f"{said}." if low is None else f"{said} (95 % {low} to {high})."


def _sentence(row: dict[str, Any]) -> str:
    subject = "The mean over blocks" if row["layer"] is None else f"Layer {row['layer']}"
    if row["verdict"] == TOO_FEW:
        return f"{subject} was measured at fewer than three steps."
    highest = f"highest at step {row['peak_step']}"
    if row["verdict"] == NO_ERRORS:
        return f"{subject} comes without standard errors; {row['reference']} is {highest}."
    highest += f" (95 % {row['peak_step_low']} to {row['peak_step_high']})"
    votes = f"{row['agreeing']} of {row['estimators']} estimators"
    if row["verdict"] == EXPAND_COMPRESS:
        share = f"{row['height']:.0%} (95 % {row['height_low']:.0%} to {row['height_high']:.0%})"
        said = f"{subject} expands and then compresses in {votes}"
        return f"{said}: {row['reference']} is {highest}, {share} above both sides."
    said = {
        "compress-expand": "compresses and then expands",
        "expand": "expands and does not surely compress again",
        "compress": "compresses without surely expanding before",
        "flat": "does not surely change",
    }.get(row["verdict"])
    if said is None:
        return f"{subject}: no verdict has {MIN_AGREEING_ESTIMATORS} estimators and more than any other; {row['reference']} is {highest}."
    return f"{subject} {said} in {votes}; {row['reference']} is {highest}."
