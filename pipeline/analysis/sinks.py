"""Attention sinks: mid-layer anisotropy without them, and at another context length.

A sink is the first token of its context or a token of extreme norm. One long vector per context adds variance along one
line, so anisotropy falls with context length merely because the sinks' share of the tokens falls.
"""

from typing import Any

import polars as pl

from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LABEL_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_block_rows,
    select_newest_rows,
    t_quantile,
)

MIDDLE_DEPTHS = (0.25, 0.75)
"""Depth range of the middle blocks, as shares of the number of blocks."""
SINK_VERDICT_LIMIT = 0.5
"""Remaining share of anisotropy below which the verdict is `sinks`."""
REFERENCE_CONTEXT_TOKENS = 256
"""Context length that anisotropy is rescaled to: that of the recipe `standard`."""


def compute_sinks(lake: LakeOrFrame) -> pl.DataFrame:
    """Compute the share of mid-layer anisotropy left without sink tokens, for the newest checkpoint of each history.

    Columns: keys, `revision`, `step`, `verdict` (sinks = significantly less than half is left, not_sinks =
    significantly more, undecided, no_errors, unknown), `anisotropy` and `anisotropy_no_sink` (means over blocks of
    depth 0.25 to 0.75), `left` (their ratio) with its 95 % interval by Student's t, `at_256` (anisotropy rescaled to
    contexts of 256 tokens), `context_tokens`, `rows`, `because`.
    Bias: errors of all blocks and of both numbers are treated as fully correlated and added, which overstates the
        error of the ratio.
    """
    return _summarize_models(select_newest_rows(load_layer_rows(lake)))


def rescale_to_context_length(lake: LakeOrFrame, context_tokens: int = REFERENCE_CONTEXT_TOKENS) -> pl.DataFrame:
    """Rescale each row's anisotropy to another context length, to compare runs of different lengths.

    Columns: keys, label, `layer`, `depth`, `anisotropy`, `anisotropy_no_sink`, `context_tokens` and
    `anisotropy_at` (null if an input of the formula is null).
    Source: two kinds of tokens, sinks of one vector of norm m with share p, and the others with trace R and variance v
        along it: A = (p (1 - p) m^2 + (1 - p) v) / (p (1 - p) m^2 + (1 - p) R). Only the share of first tokens
        depends on length; m, v and R follow from the row's trace, its sinks' share of it, and A with and without them.
    Bias: none if all sinks of a layer are the same vector. Their variance around it is attributed to the other tokens.
    """
    kept = [*HISTORY_COLUMNS, *LABEL_COLUMNS, "layer", "depth", "anisotropy", "anisotropy_no_sink", "context_tokens"]
    return load_layer_rows(lake).select(*kept, _at_length(context_tokens).alias("anisotropy_at"))


def _at_length(context_tokens: int) -> pl.Expr:
    share = pl.col("n_sink_tokens") / pl.col("n_tokens")
    share_there = share + 1 / context_tokens - 1 / pl.col("context_tokens")
    # Shares of the trace: the sinks' line, the rest, the part of the rest along that line, the largest direction of it.
    line = pl.min_horizontal(pl.col("sink_variance_share") / (1 - share), pl.col("anisotropy"))
    rest = 1 - line
    along = pl.col("anisotropy") - line
    top = pl.min_horizontal(pl.col("anisotropy_no_sink") * rest, pl.col("anisotropy"))
    # Per token, the line scales as p (1 - p) and the rest as 1 - p.
    rest_scale = (1 - share_there) / (1 - share)
    line_scale = share_there / share * rest_scale
    largest = pl.max_horizontal(line_scale * line + rest_scale * along, rest_scale * top)
    needed = pl.all_horizontal(pl.col("sink_variance_share", "anisotropy", "anisotropy_no_sink").is_not_null())
    possible = needed & (share > 0) & (share < 1) & (share_there > 0) & (share_there < 1)
    return pl.when(possible).then(largest / (line_scale * line + rest_scale * rest))


def _summarize_models(frame: pl.DataFrame) -> pl.DataFrame:
    middle = select_block_rows(frame).filter(pl.col("depth").is_between(*MIDDLE_DEPTHS))
    middle = middle.with_columns(at_256=_at_length(REFERENCE_CONTEXT_TOKENS))
    by = [*HISTORY_COLUMNS, *LABEL_COLUMNS]
    names = ["anisotropy", "anisotropy_no_sink", "at_256"]
    errors = ["anisotropy_se", "anisotropy_no_sink_se"]
    models = middle.group_by(by, maintain_order=True).agg(
        *(pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()) for name in [*names, *errors]),
        pl.col("context_tokens").first(),
        pl.col("groups").min(),
        pl.len().alias("rows"),
    )
    left = pl.col("anisotropy_no_sink") / pl.col("anisotropy")
    relative = pl.sum_horizontal(*(pl.col(se) / pl.col(se.removesuffix("_se")) for se in errors), ignore_nulls=False)
    models = models.with_columns(left=left, _half=left * relative * t_quantile(pl.col("groups")))
    models = models.with_columns(left_low=pl.col("left") - pl.col("_half"), left_high=pl.col("left") + pl.col("_half"))
    models = models.with_columns(_verdict().alias("verdict"))
    kept = ["verdict", *names, "left", "left_low", "left_high", "context_tokens", "rows"]
    return add_because_column(models.select(*by, *kept).sort(by), _sentence)


def _verdict() -> pl.Expr:
    cases = pl.when(pl.col("left").is_null()).then(pl.lit("unknown"))
    cases = cases.when(pl.col("left_low").is_null()).then(pl.lit("no_errors"))
    cases = cases.when(pl.col("left_high") < SINK_VERDICT_LIMIT).then(pl.lit("sinks"))
    return cases.when(pl.col("left_low") > SINK_VERDICT_LIMIT).then(pl.lit("not_sinks")).otherwise(pl.lit("undecided"))


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "unknown":
        return "Anisotropy with or without sink tokens is null in a middle block."
    rescaled = "unknown" if row["at_256"] is None else f"{row['at_256']:.3f}"
    return (
        f"Without sink tokens, {format_interval(row, 'left', '.0%')} of the middle blocks' anisotropy of "
        f"{row['anisotropy']:.3f} is left; rescaled from contexts of {row['context_tokens']} to "
        f"{REFERENCE_CONTEXT_TOKENS} tokens it is {rescaled}."
    )
