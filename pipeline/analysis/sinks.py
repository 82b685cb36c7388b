"""Attention sinks: how much of mid-layer anisotropy is left without them, and what it is at another context length.

A sink is the first token of its context or a token of extreme norm. One long vector per context adds variance along one
line. Anisotropy therefore falls with the length of contexts, merely because the share of sinks among the tokens falls.
"""

from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtrit

from pipeline.analysis.claims import decide, describe_claim, name_side
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
from pipeline.analysis.group_errors import add_errors, average_points, paired_half_width

MIDDLE_DEPTHS = (0.25, 0.75)
"""Depth range of the middle blocks, as shares of the number of blocks."""
SINK_VERDICT_LIMIT = 0.5
"""If less than this share of anisotropy is left without sinks, the verdict is `sinks`."""
REFERENCE_CONTEXT_TOKENS = 256
"""Context length of the recipe `standard`, to which anisotropy is rescaled."""


def compute_sinks(lake: LakeOrFrame) -> pl.DataFrame:
    """Compute the share of mid-layer anisotropy that is left without sink tokens, at each history's newest checkpoint.

    The middle blocks are those of depth 0.25 to 0.75. Columns, one row per history:

    - the keys of a history, `revision`, `step`
    - `verdict`:
        - `sinks`: less than half of the anisotropy is left (95 %).
        - `not_sinks`: more than half of the anisotropy is left (95 %).
        - `undecided`: the interval of the share contains a half.
        - `no_errors`: the share has no interval.
        - `unknown`: anisotropy with or without sink tokens is null in a middle block.
    - `claim` (most mid-layer anisotropy comes from sink tokens): `supports` for sinks, `contradicts` for not_sinks,
      else `undecided`
    - `anisotropy`, `anisotropy_no_sink`: means over the middle blocks
    - `at_256`: mean over the middle blocks of anisotropy rescaled to contexts of 256 tokens
    - `participation_ratio`, `participation_ratio_no_sink`: means over the middle blocks
    - `left`, `left_low`, `left_high`: `anisotropy_no_sink` divided by `anisotropy`, with its 95 % interval by Student's
      t
    - `paired`: true if the interval comes from the values of both in each group of contexts
    - `context_tokens`: tokens per context
    - `rows`: number of middle blocks
    - `because`: the result in a few sentences

    Bias: without values per group, the errors of all blocks and of both numbers are treated as fully correlated and
        added, which overstates the error of the ratio.
    """
    return _summarize_models(select_newest_rows(load_layer_rows(lake)))


def rescale_to_context_length(lake: LakeOrFrame, context_tokens: int = REFERENCE_CONTEXT_TOKENS) -> pl.DataFrame:
    """Rescale the anisotropy of each row to another context length, to compare runs with contexts of different lengths.

    Columns: the keys of a history, `revision`, `step`, `layer`, `depth`, `anisotropy`, `anisotropy_no_sink`,
    `context_tokens`, and `anisotropy_at`, the rescaled anisotropy, which is null if an input of the formula is null.
    Source: two kinds of tokens, sinks of one vector of norm m with share p, and the others with trace R and variance v
        along it: A = (p (1 - p) m^2 + (1 - p) v) / (p (1 - p) m^2 + (1 - p) R). Only the share of first tokens
        depends on length; m, v and R follow from the row's trace, its sinks' share of it, and A with and without them.
    Bias: none if all sinks of a layer are the same vector. Otherwise, their variance around their mean is attributed to
        the other tokens.
    """
    kept = [*HISTORY_COLUMNS, *LABEL_COLUMNS, "layer", "depth", "anisotropy", "anisotropy_no_sink", "context_tokens"]
    return load_layer_rows(lake).select(*kept, _at_length(context_tokens).alias("anisotropy_at"))


def _at_length(context_tokens: int) -> pl.Expr:
    share = pl.col("n_sink_tokens") / pl.col("n_tokens")
    share_there = share + 1 / context_tokens - 1 / pl.col("context_tokens")
    # These are shares of the trace: `line` is that of the sinks, `rest` that of the other tokens, `along` that of the
    # other tokens along the line of the sinks, and `top` that of the other tokens along their own longest axis.
    line = pl.min_horizontal(pl.col("sink_variance_share") / (1 - share), pl.col("anisotropy"))
    rest = 1 - line
    along = pl.col("anisotropy") - line
    top = pl.min_horizontal(pl.col("anisotropy_no_sink") * rest, pl.col("anisotropy"))
    # With the share p of sinks, the line scales as p (1 - p) and the rest as 1 - p.
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
    names = ["at_256", "participation_ratio", "participation_ratio_no_sink"]
    models = middle.group_by(by, maintain_order=True).agg(
        *(pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()) for name in names),
        pl.col("context_tokens").first(),
        pl.len().alias("rows"),
    )
    for name in ("anisotropy", "anisotropy_no_sink"):
        means = average_points(add_errors(middle, name), by).rename({"value": name})
        errors = {column: f"{column}_{name}" for column in ("se", "df", "deviations")}
        models = models.join(means.rename(errors).drop("rows"), on=by, how="left", nulls_equal=True)
    models = models.with_columns(left=pl.col("anisotropy_no_sink") / pl.col("anisotropy"))
    models = models.with_columns(_half_widths(models)).with_columns(
        left_low=pl.col("left") - pl.col("_half"), left_high=pl.col("left") + pl.col("_half")
    )
    models = models.with_columns(_verdict().alias("verdict"), _claim().alias("claim"))
    kept = ["verdict", "claim", "anisotropy", "anisotropy_no_sink", *names, "left", "left_low", "left_high", "paired"]
    return add_because_column(models.select(*by, *kept, "context_tokens", "rows").sort(by), _sentence)


def _half_widths(models: pl.DataFrame) -> list[pl.Series]:
    """Return the half width of the interval of `left`, and `paired`: True if it comes from the ratio of each group."""
    halves: list[float | None] = []
    paired: list[bool] = []
    fields = [
        f"{field}_{name}" for name in ("anisotropy", "anisotropy_no_sink") for field in ("deviations", "se", "df")
    ]
    for whole, bare, left, *errors in models.select("anisotropy", "anisotropy_no_sink", "left", *fields).iter_rows():
        with_sinks, se, df, without, se_bare, df_bare = errors
        half, is_paired = None, bool(with_sinks and without)
        if left is not None and is_paired:
            half = left * paired_half_width(np.array(without) / bare - np.array(with_sinks) / whole)
        elif left is not None and df is not None and df_bare is not None:
            half = left * (se / whole + se_bare / bare) * float(stdtrit(min(df, df_bare), 0.975))
        halves.append(half)
        paired.append(is_paired)
    return [pl.Series("_half", halves, pl.Float64), pl.Series("paired", paired, pl.Boolean)]


def _claim() -> pl.Expr:
    return decide(pl.col("left_high") < SINK_VERDICT_LIMIT, pl.col("left_low") > SINK_VERDICT_LIMIT)


def _verdict() -> pl.Expr:
    cases = pl.when(pl.col("left").is_null()).then(pl.lit("unknown"))
    low, high = pl.col("left_low"), pl.col("left_high")
    return cases.otherwise(name_side(low, high, SINK_VERDICT_LIMIT, "not_sinks", "sinks"))


CLAIM = "most mid-layer anisotropy comes from sink tokens"


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "unknown":
        return "Anisotropy with or without sink tokens is null in a middle block."
    rescaled = "unknown" if row["at_256"] is None else f"{row['at_256']:.3f}"
    ratios = [row["participation_ratio"], row["participation_ratio_no_sink"]]
    ranks = (
        "" if None in ratios else f" The participation ratio is {ratios[0]:.1f} with and {ratios[1]:.1f} without them."
    )
    return (
        f"Without sink tokens, {format_interval(row, 'left', '.0%')} of the middle blocks' anisotropy of "
        f"{row['anisotropy']:.3f} is left; rescaled from contexts of {row['context_tokens']} to "
        f"{REFERENCE_CONTEXT_TOKENS} tokens, anisotropy is {rescaled}.{ranks} {describe_claim(row['claim'], CLAIM)}"
    )
