"""Phases of training: expansion and later compression of intrinsic dimension, and the step of the peak.

The verdict `expand-compress` requires a rise and a fall that are both significant (95 %, all differences of a curve at
once: `pipeline.analysis.curve_shapes`; never less than two standard errors of a difference) in at least three
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
    format_interval,
    load_layer_rows,
    select_block_rows,
    select_history_rows,
    tabulate_curve_shapes,
)

EXPAND_COMPRESS = "expand-compress"
VERDICT_BY_SHAPE = {PEAK: EXPAND_COMPRESS, VALLEY: "compress-expand", RISING: "expand", FALLING: "compress"}
VERDICT_BY_SHAPE |= {FLAT: "flat"}
HEADLINE_COLUMNS = ("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90")
GRIDE_SCALE_INDEX = {"id_gride_4": 2, "id_gride_16": 4}
"""Index of GRIDE at k = 4 and 16 in the list columns."""
ESTIMATORS = (*HEADLINE_COLUMNS, *GRIDE_SCALE_INDEX)
MIN_AGREEING_ESTIMATORS = 3
"""Estimators that must share a verdict."""


def compute_phases(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify dimension over training, one row per layer and one per model (`layer` null: the mean over its blocks).

    Columns: keys of a history, `layer`, `depth`, `verdict` (expand-compress, compress-expand, expand, compress, flat;
    disputed = no verdict has three estimators and more than any other; too_few, no_errors), `agreeing` of
    `estimators`, the `reference` (first agreeing estimator), its `peak_step` with interval (`_low`, `_high`: steps not
    significantly lower), `peak_value` in dimensions, `height` of the peak above both sides as a share (0.1 = 10 %) with
    its 95 % interval, `rows`, `because`.
    Error: a pure-noise layer or model is called anything but flat in at most 5 % of histories. This is not corrected
    for the number of histories in a lake.
    """
    each, of = classify_by_estimator(lake), [*HISTORY_COLUMNS, "layer", "depth"]
    judged = each.filter(~pl.col("verdict").is_in([TOO_FEW, NO_ERRORS]))
    counts = judged.group_by(*of, "verdict").agg(agreeing=pl.len())
    tied = (pl.col("agreeing") == pl.col("agreeing").max().over(of)).sum().over(of) > 1
    counts = counts.with_columns(estimators=pl.col("agreeing").sum().over(of), _tied=tied)
    counts = counts.sort("agreeing", "verdict", descending=[True, False])
    voted = counts.group_by(of, maintain_order=True).first()
    won = (pl.col("agreeing") >= MIN_AGREEING_ESTIMATORS) & ~pl.col("_tied")
    voted = voted.with_columns(voted=pl.when(won).then("verdict").otherwise(pl.lit("disputed"))).drop("verdict")
    both = each.join(voted, on=of, how="left", nulls_equal=True)
    agrees = (pl.col("verdict") == pl.col("voted")).fill_null(False)
    first = both.sort(~agrees, "_order").group_by(of, maintain_order=True).first()
    votes, verdict = pl.col("agreeing", "estimators").fill_null(0), pl.coalesce("voted", "verdict")
    verdicts = first.with_columns(votes, verdict=verdict)
    verdicts = verdicts.rename({"estimator": "reference"}).drop("voted", "_tied", "_order")
    return add_because_column(verdicts.sort(*HISTORY_COLUMNS, "layer", nulls_last=True), _sentence)


def classify_by_estimator(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify dimension over training by each estimator alone: `estimator` instead of `reference`, no vote."""
    long = _long(select_history_rows(load_layer_rows(lake)))
    # Layers read the same contexts, so their errors are correlated: the mean's is at most the mean of theirs.
    error = pl.when(pl.col("log_se").null_count() == 0).then(pl.col("log_se").mean()).alias("log_se")
    steps = select_block_rows(long).group_by(*HISTORY_COLUMNS, "estimator", "_order", "step", maintain_order=True)
    mean = steps.agg(pl.col("log").mean(), error, pl.col("groups").min())
    blank = pl.lit(None, pl.Int16).alias("layer"), pl.lit(None, pl.Float64).alias("depth")
    together = pl.concat([long.select(*mean.columns, "layer", "depth"), mean.with_columns(*blank)])
    by = [*HISTORY_COLUMNS, "layer", "depth", "estimator", "_order"]
    shapes = tabulate_curve_shapes(together, by, "step", "log", "log_se", VERDICT_BY_SHAPE)
    peak = {name: pl.col(name).round().cast(pl.Int64) for name in ("top", "top_low", "top_high")}
    shares = {name: pl.col(name).exp() - 1 for name in ("height", "height_low", "height_high")}
    shapes = shapes.sort(*HISTORY_COLUMNS, "layer", "_order", nulls_last=True)
    shapes = shapes.with_columns(peak_value=pl.col("top_value").exp(), **peak, **shares).drop("top_value")
    return shapes.rename({name: name.replace("top", "peak_step") for name in peak})


def compute_estimators(lake: LakeOrFrame) -> pl.DataFrame:
    """Return `classify_by_estimator` as a finding, with a sentence per row."""
    return add_because_column(classify_by_estimator(lake).drop("_order"), _estimator_sentence)


def compute_agreement(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the verdicts of every two estimators over the layers of a history.

    Columns: keys of a history, `estimator`, `other`, `rows` (layers with a verdict by both), `same_verdict` (share of
    these layers), `same_peak` (share whose intervals of the peak's step overlap), `verdict` (agree = the same verdict
    in at least 90 % of layers, differ), `because`.
    """
    judged = pl.col("layer").is_not_null() & ~pl.col("verdict").is_in([TOO_FEW, NO_ERRORS])
    each, on = classify_by_estimator(lake).filter(judged), [*HISTORY_COLUMNS, "layer"]
    sides = ((each.filter(estimator=a), each.filter(estimator=b)) for a, b in combinations(ESTIMATORS, 2))
    pairs = pl.concat([a.join(b, on=on, nulls_equal=True, suffix="_other") for a, b in sides])
    pairs = pairs.rename({"estimator_other": "other"})
    same_verdict, same_peak = pl.col("verdict") == pl.col("verdict_other"), peak_intervals_overlap("_other")
    table = pairs.group_by(*HISTORY_COLUMNS, "estimator", "other", maintain_order=True)
    found = table.agg(rows=pl.len(), same_verdict=same_verdict.mean(), same_peak=same_peak.mean())
    agree = pl.when(pl.col("same_verdict") >= 0.9).then(pl.lit("agree")).otherwise(pl.lit("differ"))
    return add_because_column(found.with_columns(verdict=agree), _agreement_sentence)


def sort_agreement(found: pl.DataFrame) -> pl.DataFrame:
    """Sort the rows of `compute_agreement` by pair of estimators; within a pair, the order is kept."""
    ranks = {name: rank for rank, name in enumerate(ESTIMATORS)}
    order = [pl.col(name).replace_strict(ranks, return_dtype=pl.Int8) for name in ("estimator", "other")]
    return found.sort(order, maintain_order=True)


def peak_intervals_overlap(suffix: str) -> pl.Expr:
    """Condition for rows in which the interval of the peak's step overlaps that of the columns with this suffix."""
    low, high = pl.col("peak_step_low"), pl.col("peak_step_high")
    return (low <= pl.col(f"peak_step_high{suffix}")) & (pl.col(f"peak_step_low{suffix}") <= high)


def _long(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per (row, estimator), as the logarithm, whose errors are similar at all dimensions."""
    columns = [(name, pl.col(name), pl.col(f"{name}_se")) for name in HEADLINE_COLUMNS]
    for name, index in GRIDE_SCALE_INDEX.items():
        at_scale = pl.col("id_gride_k").list.get(index, null_on_oob=True) == int(name.rpartition("_")[2])
        value, se = (pl.col(c).list.get(index, null_on_oob=True) for c in ("id_gride", "id_gride_se"))
        columns.append((name, pl.when(at_scale).then(value), pl.when(at_scale).then(se)))
    kept = [*HISTORY_COLUMNS, "layer", "depth", "state", "step", "groups"]
    frames = []
    for order, (name, value, se) in enumerate(columns):
        added = {"estimator": pl.lit(name), "_order": pl.lit(order), "log": value.log(), "log_se": se / value}
        frames.append(frame.filter(value > 0).select(*kept, **added))
    return pl.concat(frames)


def _agreement_sentence(row: dict[str, Any]) -> str:
    text = f"{row['estimator']} and {row['other']} share a verdict in {row['same_verdict']:.0%} of {row['rows']} layers"
    return f"{text}; the intervals of their peak steps overlap in {row['same_peak']:.0%}."


def _estimator_sentence(row: dict[str, Any]) -> str:
    text = f"{_subject(row)} by {row['estimator']} is highest at step {row['peak_step']}"
    low, high = row["peak_step_low"], row["peak_step_high"]
    return f"{text}." if low is None else f"{text} (95 % {low} to {high})."


def _subject(row: dict[str, Any]) -> str:
    return "The mean over blocks" if row["layer"] is None else f"Layer {row['layer']}"


def _sentence(row: dict[str, Any]) -> str:
    subject, highest = _subject(row), f"{row['reference']} is highest at step {row['peak_step']}"
    if row["verdict"] == TOO_FEW:
        return f"{subject} was measured at fewer than three steps."
    if row["verdict"] == NO_ERRORS:
        return f"{subject} has no standard errors; {highest}."
    highest += f" (95 % {row['peak_step_low']} to {row['peak_step_high']})"
    votes = f"in {row['agreeing']} of {row['estimators']} estimators"
    if row["verdict"] == EXPAND_COMPRESS:
        height = format_interval(row, "height", ".0%")
        return f"{subject} expands and then compresses {votes}; {highest}, {height} above both sides."
    text = {
        "compress-expand": "compresses and then expands",
        "expand": "expands; any later compression is within error",
        "compress": "compresses; any earlier expansion is within error",
        "flat": "does not change significantly (95 %)",
    }.get(row["verdict"])
    if text is None:
        return f"{subject}: no verdict has {MIN_AGREEING_ESTIMATORS} estimators and more than any other; {highest}."
    return f"{subject} {text}, {votes}; {highest}."
