"""Phases of training: the sequence of significant changes of intrinsic dimension, and the step of its peak.

A verdict is the name of a sequence of moves, each significant (95 %, all differences of a curve at once:
`pipeline.analysis.simultaneous_test`), that more than half of the scales of dimension share.
"""

from itertools import combinations
from typing import Any

import polars as pl

from pipeline.analysis.claims import describe_claim, describe_left_out, describe_moves, describe_pairing
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW, start_share
from pipeline.analysis.dimension import (
    DISPUTED,
    MANY_MOVES,
    VOTERS,
    average_blocks,
    classify_dimension,
    make_words,
    select_log_dimension,
    vote,
)
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_history_rows,
)

EXPAND_COMPRESS, COLLAPSE_EXPAND_COMPRESS, FLAT = "expand-compress", "collapse-expand-compress", "flat"
WORDS = make_words(
    none=FLAT,
    r="expand",
    f="compress",
    rf=EXPAND_COMPRESS,
    fr="compress-expand",
    frf=COLLAPSE_EXPAND_COMPRESS,
    rfr="expand-compress-expand",
)
"""`collapse-expand-compress` is the sequence of Li et al. 2025."""
CLAIM = "dimension expands and then compresses in training"
CURVE_COLUMNS = (
    *("verdict", "claim", "start_share", "peak_step", "peak_step_low", "peak_step_high", "peak_value"),
    *("height", "height_low", "height_high", "smallest", "moves", "main", "rows", "status", "paired", "left_out"),
)
AGREEING_SHARE = 0.9
"""Smallest share of layers with the same verdict at which two scales agree."""


def compute_phases(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify dimension over training, one row per layer and one per model (`layer` null: the mean over its blocks).

    Columns: keys of a history, `layer`, `depth`, `verdict` (flat, expand, compress, expand-compress, compress-expand,
    collapse-expand-compress, expand-compress-expand, oscillating = more moves; disputed = no verdict has more than half
    of the scales; too_few, no_errors), `claim` (dimension expands and then compresses: supports = the peak is
    significantly higher than `smallest`, contradicts = significantly lower, undecided), `start_share` (first step as a
    share of the last), `agreeing` of `scales`, `reference` (first agreeing estimator) and its values: `moves` (all
    significant changes: direction, first and last step, size as a share with its 95 % interval) and the `main` ones
    that name the verdict, `peak_step` with interval (`_low`, `_high`: first and last step not significantly lower),
    `peak_value`, `height` of the peak above both sides as a share with its 95 % interval, `smallest` (height from which
    a peak counts: 5 %, or a tenth of the curve's range if that is more), `rows`, `paired` errors, `left_out` steps (no
    value or error; for the mean: a block has none), `because`.
    Error: at most 5 % of layers or models whose dimension is pure noise get any move. This is not corrected for the
    number of histories in a lake.
    """
    of = [*HISTORY_COLUMNS, "layer", "depth"]
    found = vote(classify_by_estimator(lake), of).select(*of, "agreeing", "scales", "reference", *CURVE_COLUMNS)
    return add_because_column(found.sort(*HISTORY_COLUMNS, "layer", nulls_last=True), _sentence)


def classify_by_estimator(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify dimension over training by each estimator alone: `estimator` and its `scale`, no vote."""
    long = select_log_dimension(select_history_rows(load_layer_rows(lake))).drop("state")
    long = long.filter(pl.col("value").is_not_null().any().over(*HISTORY_COLUMNS, "layer", "estimator"))
    means = average_blocks(select_log_dimension(select_history_rows(load_layer_rows(lake))))
    by = [*HISTORY_COLUMNS, "layer", "depth"]
    curves = classify_dimension(pl.concat([long, means.select(long.columns)]), by, "step", WORDS)
    peak = {f"top{end}": f"peak_step{end}" for end in ("", "_low", "_high")}
    curves = curves.with_columns(pl.col(name).round().cast(pl.Int64) for name in peak).rename(peak)
    left = pl.col("left_out").list.eval(pl.element().round().cast(pl.Int64))
    kept = [*by, "estimator", "scale", *CURVE_COLUMNS]
    return (
        curves.with_columns(left_out=left, start_share=start_share("start", "stop"))
        .select(kept)
        .sort(*by, maintain_order=True, nulls_last=True)
    )


def compute_estimators(lake: LakeOrFrame) -> pl.DataFrame:
    """Return `classify_by_estimator` as a finding, with a sentence per row."""
    return add_because_column(classify_by_estimator(lake), _estimator_sentence)


def compute_agreement(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the verdicts of every two scales of dimension over the layers of a history.

    Columns: keys of a history, `estimator` and `other` (the voters of two scales), `rows` (layers with a verdict by
    both), `same_verdict` (share of these layers), `same_peak` (share whose intervals of the peak's step overlap),
    `verdict` (agree = the same verdict in at least 90 % of layers, differ), `because`.
    """
    judged = pl.col("layer").is_not_null() & ~pl.col("verdict").is_in([TOO_FEW, NO_ERRORS])
    each, on = classify_by_estimator(lake).filter(judged), [*HISTORY_COLUMNS, "layer"]
    each = each.select(*on, "estimator", "verdict", "peak_step_low", "peak_step_high")
    sides = ((each.filter(estimator=a), each.filter(estimator=b)) for a, b in combinations(VOTERS, 2))
    pairs = pl.concat([a.join(b, on=on, nulls_equal=True, suffix="_other") for a, b in sides])
    pairs = pairs.rename({"estimator_other": "other"})
    same_verdict, same_peak = pl.col("verdict") == pl.col("verdict_other"), peak_intervals_overlap("_other")
    table = pairs.group_by(*HISTORY_COLUMNS, "estimator", "other", maintain_order=True)
    found = table.agg(rows=pl.len(), same_verdict=same_verdict.mean(), same_peak=same_peak.mean())
    agree = pl.when(pl.col("same_verdict") >= AGREEING_SHARE).then(pl.lit("agree")).otherwise(pl.lit("differ"))
    return add_because_column(found.with_columns(verdict=agree), _agreement_sentence)


def sort_agreement(found: pl.DataFrame) -> pl.DataFrame:
    """Sort the rows of `compute_agreement` by pair of estimators; within a pair, the order is kept."""
    ranks = {name: rank for rank, name in enumerate(VOTERS)}
    order = [pl.col(name).replace_strict(ranks, return_dtype=pl.Int8) for name in ("estimator", "other")]
    return found.sort(order, maintain_order=True)


def peak_intervals_overlap(suffix: str) -> pl.Expr:
    """Condition that the interval of the peak's step overlaps the interval in the columns with this suffix."""
    low, high = pl.col("peak_step_low"), pl.col("peak_step_high")
    return (low <= pl.col(f"peak_step_high{suffix}")) & (pl.col(f"peak_step_low{suffix}") <= high)


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
    subject, left_out = _subject(row), describe_left_out(row["left_out"], "step", "d")
    if row["verdict"] == TOO_FEW:
        return f"{subject} was measured at fewer than three steps.{left_out}"
    if row["verdict"] == NO_ERRORS:
        return f"{subject} has no standard errors; {row['reference']} is highest at step {row['peak_step']}.{left_out}"
    return f"{subject} {_describe(row)} {describe_claim(row['claim'], CLAIM)}{describe_pairing(row)}{left_out}"


def _describe(row: dict[str, Any]) -> str:
    if row["verdict"] == DISPUTED:
        return f"is disputed: no verdict has more than half of the {row['scales']} scales."
    if row["verdict"] == FLAT:
        return f"does not change significantly (95 %), in {row['agreeing']} of {row['scales']} scales."
    name = "moves up and down" if row["verdict"] == MANY_MOVES else f"is {row['verdict']}"
    moves = f"{row['reference']} {describe_moves(row, 'step', '.0f')}"
    text = f"{name}, in {row['agreeing']} of {row['scales']} scales: {moves}"
    if row["verdict"] in WORDS.peaked:
        height = format_interval(row, "height", ".0%")
        steps = f"(95 % {row['peak_step_low']} to {row['peak_step_high']})"
        text += f"; the peak at step {row['peak_step']} {steps} is {height} above both sides"
    minor = len(row["moves"]) - len(row["main"])
    return f"{text}; {minor} more moves are under a tenth of the largest." if minor > 0 else f"{text}."
