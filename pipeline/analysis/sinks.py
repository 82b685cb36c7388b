"""Attention sinks: how much of mid-layer anisotropy is left without them, and at another length of context?

A sink is the first token of its context or one of extreme norm. One long vector per context is variance along one line,
so anisotropy falls with the length of a context for no other reason than the sinks' share of its tokens.
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
)
from pipeline.analysis.student_t import t_quantile

MIDDLE_DEPTHS = (0.25, 0.75)
"""Depths, as shares of the model."""
SINK_VERDICT_LIMIT = 0.5
REFERENCE_CONTEXT_TOKENS = 256
"""Length that anisotropy is carried over to, that of the recipe `standard`."""


def compute_sinks(lake: LakeOrFrame) -> pl.DataFrame:
    """How much of the anisotropy of the middle blocks is left without sink tokens, of each newest checkpoint.

    Columns: keys, `revision`, `step`, `verdict` (sinks = less than half is left, not_sinks = more, undecided,
    no_errors, unknown), `anisotropy` and `anisotropy_no_sink` (means over blocks of depth 0.25 to 0.75), `left` (their
    ratio) with its 95 % interval by Student's t, `at_256` (anisotropy if contexts had 256 tokens), `context_tokens`,
    `rows`, `because`.
    Bias: errors of blocks and of both numbers are taken as one, which overstates that of the ratio.
    """
    return _of_models(select_newest_rows(load_layer_rows(lake)))


def rescale_to_context_length(lake: LakeOrFrame, context_tokens: int = REFERENCE_CONTEXT_TOKENS) -> pl.DataFrame:
    """Each row's anisotropy if its contexts had another length: what compares runs of different lengths.

    Columns: keys, label, `layer`, `depth`, `anisotropy`, `anisotropy_no_sink`, `context_tokens` and
    `anisotropy_at` (null where the row lacks what the formula needs).
    Source: two kinds of tokens, sinks of one vector of norm m with share p, and the others with trace R and variance v
        along it: A = (p (1 - p) m^2 + (1 - p) v) / (p (1 - p) m^2 + (1 - p) R). Only first tokens grow rarer with
        length; m, v and R follow from the row's trace, its sinks' share of it, and A with and without them.
    Bias: none where the sinks of a layer are one vector. What they vary beside it is counted among the others.
    """
    kept = [*HISTORY_COLUMNS, *LABEL_COLUMNS, "layer", "depth", "anisotropy", "anisotropy_no_sink", "context_tokens"]
    return load_layer_rows(lake).select(*kept, _at_length(context_tokens).alias("anisotropy_at"))


def _at_length(context_tokens: int) -> pl.Expr:
    share = pl.col("n_sink_tokens") / pl.col("n_tokens")
    there = share + 1 / context_tokens - 1 / pl.col("context_tokens")
    # Shares of the trace here: the sinks' line, all the rest, what of the rest lies along the line, and its own top.
    line = pl.min_horizontal(pl.col("sink_variance_share") / (1 - share), pl.col("anisotropy"))
    rest = 1 - line
    along = pl.col("anisotropy") - line
    top = pl.min_horizontal(pl.col("anisotropy_no_sink") * rest, pl.col("anisotropy"))
    # There, per token, the line grows as p (1 - p) and the rest as 1 - p.
    line_grows, rest_grows = there * (1 - there) / (share * (1 - share)), (1 - there) / (1 - share)
    largest = pl.max_horizontal(line_grows * line + rest_grows * along, rest_grows * top)
    needed = pl.all_horizontal(pl.col("sink_variance_share", "anisotropy", "anisotropy_no_sink").is_not_null())
    possible = needed & (share > 0) & (share < 1) & (there > 0) & (there < 1)
    return pl.when(possible).then(largest / (line_grows * line + rest_grows * rest))


def _of_models(frame: pl.DataFrame) -> pl.DataFrame:
    middle = select_block_rows(frame).filter(pl.col("depth").is_between(*MIDDLE_DEPTHS))
    middle = middle.with_columns(at_256=_at_length(REFERENCE_CONTEXT_TOKENS))
    by = [*HISTORY_COLUMNS, *LABEL_COLUMNS]
    names = ["anisotropy", "anisotropy_no_sink", "at_256"]
    errors = ["anisotropy_se", "anisotropy_no_sink_se"]
    found = middle.group_by(by, maintain_order=True).agg(
        *(pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()) for name in [*names, *errors]),
        pl.col("context_tokens").first(),
        (pl.col("groups").min() - 1).alias("_df"),
        pl.len().alias("rows"),
    )
    left = pl.col("anisotropy_no_sink") / pl.col("anisotropy")
    relative = pl.sum_horizontal(*(pl.col(se) / pl.col(se.removesuffix("_se")) for se in errors), ignore_nulls=False)
    t = pl.col("_df").replace_strict({df: t_quantile(df) for df in found["_df"].unique() if df}, default=None)
    found = found.with_columns(left=left, _half=left * relative * t.cast(pl.Float64))
    found = found.with_columns(left_low=pl.col("left") - pl.col("_half"), left_high=pl.col("left") + pl.col("_half"))
    found = found.with_columns(_verdict().alias("verdict"))
    kept = ["verdict", *names, "left", "left_low", "left_high", "context_tokens", "rows"]
    return add_because_column(found.select(*by, *kept).sort(by), _sentence)


def _verdict() -> pl.Expr:
    cases = pl.when(pl.col("left").is_null()).then(pl.lit("unknown"))
    cases = cases.when(pl.col("left_low").is_null()).then(pl.lit("no_errors"))
    cases = cases.when(pl.col("left_high") < SINK_VERDICT_LIMIT).then(pl.lit("sinks"))
    return cases.when(pl.col("left_low") > SINK_VERDICT_LIMIT).then(pl.lit("not_sinks")).otherwise(pl.lit("undecided"))


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "unknown":
        return "Anisotropy is not known with and without sink tokens in every middle block."
    at = "unknown" if row["at_256"] is None else f"{row['at_256']:.3f}"
    return (
        f"Without sink tokens {format_interval(row, 'left', '.0%')} of the middle blocks' anisotropy of "
        f"{row['anisotropy']:.3f} is left; on contexts of {REFERENCE_CONTEXT_TOKENS} tokens instead of {row['context_tokens']} "
        f"it would be {at}."
    )
