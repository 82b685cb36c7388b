"""Massive activations (Sun et al. 2024): whether there are any, at how many tokens, and only at the first of a context.

A token of outlying norm has a norm above 8 medians in a layer. The lake has the number of these tokens per layer and
not their positions. The first token of each context is always counted as one of them, so a number equal to that of the
contexts means that no other token has an outlying norm. Contexts are drawn independently, so that shares of contexts
have exact binomial errors, even if tokens within a context are dependent.
"""

from typing import Any

import numpy as np
import polars as pl
from scipy.special import bdtr, bdtrc, betaincinv

from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LABEL_COLUMNS,
    LakeOrFrame,
    add_because_column,
    load_layer_rows,
    select_block_rows,
    select_newest_rows,
)

SMALLEST_ACTIVATION, SMALLEST_RATIO = 100.0, 1000.0
"""Smallest absolute value of a massive activation, and its smallest ratio to the median absolute value (Sun et al.
2024)."""
FEW = 3
"""Largest number of tokens of outlying norm in a context, not counting the first token, that is called few."""
MOST, RARE = 0.5, 0.1
"""Shares of the contexts: above MOST are most of them, and below RARE are rare exceptions."""
SIGNIFICANCE_LEVEL = 0.05
MASSIVE_FEW, MASSIVE_MANY, MASSIVE, NONE, UNKNOWN = "few", "many", "undecided", "none", "unknown"
CLAIM = "massive activations exist, at a few tokens"
_NUMBERS = (
    "ratio",
    "others",
    "crowded",
    "crowded_low",
    "crowded_high",
    "p",
    "elsewhere",
    "elsewhere_low",
    "elsewhere_high",
)
_TYPES: dict[str, Any] = {"verdict": pl.String(), "claim": pl.String(), "first_token_claim": pl.String()}
_TYPES |= {"layer_of_largest": pl.Int64(), **dict.fromkeys((*_NUMBERS, "first_token_p"), pl.Float64())}


def compute_massive(lake: LakeOrFrame) -> pl.DataFrame:
    """Find the massive activations of the newest checkpoint of each history, in the block where they are largest.

    Another token of outlying norm is one that is not the first of its context.

    Columns, one row per history:

    - the keys of a history, `revision`, `step`
    - `verdict`:
        - `few`: there are massive activations, and most contexts have at most three other tokens of outlying norm.
        - `many`: there are massive activations, and most contexts have more than three.
        - `undecided`: there are massive activations, and neither is significant (95 %).
        - `none`: the largest activation is below 100, or below 1000 times the median.
        - `unknown`: a count that the test needs is null.
    - `claim` (there are massive activations, at a few tokens): `supports` for few, `contradicts` for many, and for none
      if there are enough contexts; else `undecided`
    - `first_token_claim` (massive activations sit at the first token, or at a few others such as the first delimiter):
      `supports` if under a tenth of the contexts have another token of outlying norm (95 %); `contradicts` if over a
      tenth have more than three others, or if there are no massive activations; else `undecided`
    - `layer_of_largest`: block with the largest ratio of an activation to the median
    - `ratio`: that ratio
    - `others`: mean number per context of other tokens of outlying norm
    - `crowded`: largest possible share of contexts with more than three of them
    - `elsewhere`: largest possible share of contexts with any of them
    - `crowded_low`, `crowded_high`, `elsewhere_low`, `elsewhere_high`: 95 % limits of these shares (Clopper & Pearson
      1934)
    - `p`, `first_token_p`: p of the two claims
    - `rows`: number of blocks
    - `because`: the result in one or two sentences

    Bias: a token of outlying norm (8 medians) need not hold a massive activation, so `others` is an upper bound.
    """
    by = [*HISTORY_COLUMNS, *LABEL_COLUMNS]
    blocks = select_block_rows(select_newest_rows(load_layer_rows(lake)))
    blocks = blocks.with_columns(ratio=pl.col("abs_max") / pl.col("abs_median"))
    counts = pl.col("n_layer_sink_tokens", "n_contexts", "context_tokens", "layer", "abs_max", "ratio")
    largest = blocks.filter(pl.col("ratio").is_finite()).sort("ratio", descending=True).group_by(by)
    rows = blocks.group_by(by, maintain_order=True).agg(rows=pl.len())
    rows = rows.join(largest.agg(counts.first()), on=by, how="left", nulls_equal=True)
    results = [_judge(row) for row in rows.iter_rows(named=True)]
    columns = [pl.Series(name, [result[name] for result in results], kind) for name, kind in _TYPES.items()]
    found = rows.select(*by, "rows", "n_contexts").with_columns(columns)
    return add_because_column(found.select(*by, *_TYPES, "rows", "n_contexts").sort(by), _sentence).drop("n_contexts")


def _judge(row: dict[str, Any]) -> dict[str, Any]:
    """Test one checkpoint; return the columns in _TYPES."""
    result = dict.fromkeys(_TYPES) | {"layer_of_largest": row["layer"], "ratio": row["ratio"]}
    result |= {"verdict": UNKNOWN, "claim": UNDECIDED, "first_token_claim": UNDECIDED}
    contexts, tokens = row["n_contexts"], row["n_layer_sink_tokens"]
    if row["ratio"] is None or not contexts or tokens is None:
        return result
    if row["abs_max"] < SMALLEST_ACTIVATION or row["ratio"] < SMALLEST_RATIO:
        p = _p_below(0, contexts, MOST)
        none = CONTRADICTS if p < SIGNIFICANCE_LEVEL else UNDECIDED
        return result | {"verdict": NONE, "claim": none, "first_token_claim": none, "p": p, "first_token_p": p}
    return result | _count(contexts, max(tokens - contexts, 0), row["context_tokens"])


def _count(contexts: int, others: int, context_tokens: int) -> dict[str, Any]:
    """Test two shares of contexts: those with more than FEW other tokens of outlying norm, and those with at least one.

    Few others do not contradict the claim about first tokens: by Sun et al. 2024 the first delimiter is another usual
    place, and the lake does not have the positions. The numbers per context are unknown, so each test uses the largest
    and the smallest count of contexts that is possible. Return columns of `compute_massive`.

    Args:
        others: number of other tokens of outlying norm in all contexts together.
    """
    room = max(context_tokens - 1, 1)
    most = min(others // (FEW + 1), contexts)
    least = max(0, int(np.ceil((others - FEW * contexts) / max(room - FEW, 1))))
    few, many = _p_below(most, contexts, MOST), _p_above(min(least, contexts), contexts, MOST)
    some, any_least = min(others, contexts), min(int(np.ceil(others / room)), contexts)
    first, spread = _p_below(some, contexts, RARE), _p_above(min(least, contexts), contexts, RARE)
    crowded, apart = _bounds(min(least, contexts), most, contexts), _bounds(any_least, some, contexts)
    claim, word = _answer(few, many)
    return {
        "verdict": word,
        "claim": claim,
        "first_token_claim": _answer(first, spread)[0],
        "others": others / contexts,
        "crowded": most / contexts,
        **dict(zip(("crowded_low", "crowded_high"), crowded, strict=True)),
        "elsewhere": some / contexts,
        **dict(zip(("elsewhere_low", "elsewhere_high"), apart, strict=True)),
        "p": min(few, many),
        "first_token_p": min(first, spread),
    }


def _answer(supports: float, contradicts: float) -> tuple[str, str]:
    if supports < SIGNIFICANCE_LEVEL:
        return SUPPORTS, MASSIVE_FEW
    return (CONTRADICTS, MASSIVE_MANY) if contradicts < SIGNIFICANCE_LEVEL else (UNDECIDED, MASSIVE)


def _p_below(count: int, contexts: int, share: float) -> float:
    """Return the two-sided p of observing at most `count` of the contexts if the true share is `share`."""
    return min(1.0, 2 * float(bdtr(count, contexts, share)))


def _p_above(count: int, contexts: int, share: float) -> float:
    return min(1.0, 2 * float(bdtrc(count - 1, contexts, share))) if count else 1.0


def _bounds(least: int, most: int, contexts: int) -> tuple[float, float]:
    """Return the 95 % limits (Clopper & Pearson) of a share whose count is known only to be from `least` to `most`."""
    low = float(betaincinv(least, contexts - least + 1, 0.025)) if least else 0.0
    return low, float(betaincinv(most + 1, contexts - most, 0.975)) if most < contexts else 1.0


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == UNKNOWN:
        return "The number of tokens of outlying norm, or the largest activation, is null in every block."
    text = f"The largest activation is {row['ratio']:,.0f} times the median, in layer {row['layer_of_largest']}"
    claim = describe_claim(row["claim"], CLAIM)
    if row["verdict"] == NONE:
        limits = f"a massive one exceeds {SMALLEST_ACTIVATION:g} and {SMALLEST_RATIO:g} medians"
        return f"{text}; {limits}. {claim}"
    text += f"; {row['others']:.2f} tokens per context beside the first have an outlying norm there"
    high = f"at most {row['crowded_high']:.0%} of the contexts (95 %) have more than {FEW}"
    return f"{text}, so that {high}. {claim}"
