"""Phases of training: the sequence of significant changes of intrinsic dimension, and the step of its peak.

A move is a significant change, by a test of all differences within a curve (`pipeline.analysis.simultaneous_test`). A
verdict is the name of a sequence of moves that more than half of the scales of dimension show.
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
"""Names of the sequences of main moves; `collapse-expand-compress` is the sequence that Li et al. 2025 report."""
CLAIM = "dimension expands and then compresses in training"
CURVE_COLUMNS = (
    *("verdict", "claim", "start_share", "peak_step", "peak_step_low", "peak_step_high", "peak_value"),
    *("height", "height_low", "height_high", "smallest", "moves", "main", "rows", "status", "paired", "left_out"),
)
AGREEING_SHARE = 0.9
"""Two scales agree if they have the same verdict in at least this share of the layers."""


def compute_phases(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the curve of dimension over training, for each layer and for the mean over the blocks.

    The estimators of dimension vote, one per scale (`dimension.vote`).
    Columns, one row per history and layer, and one per history for the mean over the blocks:

    - the keys of a history
    - `layer`, `depth`: null for the mean over the blocks
    - `verdict`:
        - `flat`: dimension does not change significantly.
        - `expand`, `compress`, `expand-compress`, `compress-expand`, `collapse-expand-compress`,
          `expand-compress-expand`: these are its main moves, where a compression at the start of three moves is a
          collapse.
        - `oscillating`: it has more main moves.
        - `disputed`: no verdict has more than half of the scales.
        - `too_few`: dimension is known at fewer than three steps.
        - `no_errors`: dimension has no standard errors.
    - `claim` (dimension expands and then compresses): `supports` if it has a peak whose height is significantly above
      `smallest`, `contradicts` if the height is significantly below, else `undecided`
    - `agreeing`, `scales`: number of scales in the largest group with the same verdict, and number of all scales with
      errors
    - `reference`: first estimator of this group; all following columns are about its curve
    - `start_share`: first step as a share of the last step
    - `moves`: list of all significant moves, each with its direction, first and last step, and size, as a share of
      dimension, with its 95 % interval
    - `main`: list of the moves that are larger than a tenth of the largest significant difference
    - `peak_step`: step of the peak, or of the highest value
    - `peak_step_low`, `peak_step_high`: its 95 % interval, the range of steps that are not significantly lower
    - `peak_value`: dimension there
    - `height`, `height_low`, `height_high`: height of the peak above both sides, as a share of dimension, with its 95 %
      interval
    - `smallest`: height from which a peak counts; 5 %, or a tenth of the curve's range if that is more
    - `rows`: number of steps of the curve
    - `paired`: true if the errors are paired
    - `left_out`: steps without a value or an error; of the mean, also steps at which a block has no value
    - `because`: the result in one or two sentences

    Error: at most 5 % of layers or models whose dimension is pure noise get any move. This is not corrected for the
    number of histories in a lake.
    """
    of = [*HISTORY_COLUMNS, "layer", "depth"]
    found = vote(classify_by_estimator(lake), of).select(*of, "agreeing", "scales", "reference", *CURVE_COLUMNS)
    return add_because_column(found.sort(*HISTORY_COLUMNS, "layer", nulls_last=True), _sentence)


def classify_by_estimator(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the curve of dimension over training for each estimator on its own, without a vote.

    The columns are those of `compute_phases`, with `estimator` and its `scale` in place of those about the vote.
    """
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
    """Return the rows of `classify_by_estimator` with a sentence per row, as the finding `estimators`."""
    return add_because_column(classify_by_estimator(lake), _estimator_sentence)


def compute_agreement(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the verdicts of every two scales of dimension over the layers of a history.

    Columns, one row per history and pair of scales:

    - the keys of a history
    - `estimator`, `other`: estimators of the two scales
    - `rows`: number of layers that have a verdict by both
    - `same_verdict`: share of these layers in which the two verdicts are the same
    - `same_peak`: share of these layers in which the intervals of the two peak steps overlap
    - `verdict`: `agree` if the verdicts are the same in at least 90 % of the layers, else `differ`
    - `because`: the result in one sentence
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
    """Sort the rows of `compute_agreement` by pair of estimators; rows of one pair stay in their order."""
    ranks = {name: rank for rank, name in enumerate(VOTERS)}
    order = [pl.col(name).replace_strict(ranks, return_dtype=pl.Int8) for name in ("estimator", "other")]
    return found.sort(order, maintain_order=True)


def peak_intervals_overlap(suffix: str) -> pl.Expr:
    """Return the condition that the interval of `peak_step` overlaps the one in the columns with this suffix."""
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
