"""Compression valley (Queipo-de-Llano et al. 2025): is the effective rank low where the norm of the sinks is large?"""

import math
from typing import Any

import polars as pl

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
from pipeline.analysis.group_errors import Estimate, add_errors, average_points, subtract_rows

LARGE_NORM = 10.0
"""Ratio of the largest norm of a token to the median norm, above which a block has a large sink."""
SMALLEST_DROP = 0.1
"""Share by which RankMe has to be lower in the blocks with a large sink for a compression valley."""
VALLEY, NO_VALLEY = "valley", "no_valley"
NO_LARGE, ALL_LARGE = "no_large_norm", "all_large_norm"
CLAIM = "the effective rank has a valley where the norm of the sinks is large"
METRICS = {"drop": "effective_rank_sigma", "drop_no_sink": "effective_rank_sigma_no_sink"}
ENDS = ("", "_low", "_high")
_TYPES: dict[str, Any] = {f"{name}{end}": pl.Float64() for name in METRICS for end in ENDS}
_TYPES |= {"paired": pl.Boolean()}


def compute_valley(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare RankMe of the blocks with a large sink with that of the other blocks, at the newest checkpoint.

    A block has a large sink if the norm of one of its tokens is over 10 times the median norm. RankMe is the
    exponential of the entropy of the singular values of the uncentred states; the paper uses the squared singular
    values. Blocks are chosen by their norms and compared by their RankMe, so the choice does not bias the interval.

    Columns, one row per history:

    - the keys of a history, `revision`, `step`
    - `verdict`:
        - `valley`: RankMe is lower in the blocks with a large sink, by more than 10 % (95 %).
        - `no_valley`: RankMe is higher there, or lower by less than 10 % (95 %).
        - `undecided`: the interval of the drop contains 10 %.
        - `no_large_norm`: no block has a large sink.
        - `all_large_norm`: every block has a large sink.
        - `no_errors`: the drop has no interval.
    - `claim` (there is a valley): `supports` for a valley, `contradicts` for no_valley, else `undecided`
    - `drop`, `drop_low`, `drop_high`: share by which the geometric mean of RankMe over the blocks with a large sink is
      below that over the other blocks, with its 95 % interval
    - `drop_no_sink` with its interval: the same for RankMe without sink tokens
    - `paired`: true if the interval of `drop` is paired
    - `large`, `others`: numbers of blocks with and without a large sink
    - `rows`: number of blocks
    - `because`: the result in one or two sentences
    """
    by = [*HISTORY_COLUMNS, *LABEL_COLUMNS]
    blocks = select_block_rows(select_newest_rows(load_layer_rows(lake)))
    blocks = blocks.with_columns(_large=pl.col("norm_max") / pl.col("norm_median") > LARGE_NORM)
    blocks = blocks.filter(pl.col("_large").is_not_null() & pl.col("effective_rank_sigma").is_not_null())
    table = blocks.group_by(by, maintain_order=True).agg(
        large=pl.col("_large").sum().cast(pl.Int64), others=(~pl.col("_large")).sum().cast(pl.Int64), rows=pl.len()
    )
    measured = [_compare(part) for part in blocks.partition_by(by, maintain_order=True)]
    columns = [pl.Series(name, [each[name] for each in measured], kind) for name, kind in _TYPES.items()]
    table = table.with_columns(columns)
    low, high = pl.col("drop_low"), pl.col("drop_high")
    cases = pl.when(pl.col("large") == 0).then(pl.lit(NO_LARGE)).when(pl.col("others") == 0).then(pl.lit(ALL_LARGE))
    verdict = cases.otherwise(name_side(low, high, SMALLEST_DROP, VALLEY, NO_VALLEY))
    found = table.with_columns(verdict=verdict, claim=decide(low > SMALLEST_DROP, high < SMALLEST_DROP))
    kept = found.select(*by, "verdict", "claim", *_TYPES, "large", "others", "rows")
    return add_because_column(kept.sort(by), _sentence)


def _compare(part: pl.DataFrame) -> dict[str, Any]:
    """Compare the blocks of one checkpoint; return the values of the columns in _TYPES."""
    found: dict[str, Any] = dict.fromkeys(_TYPES)
    if part["_large"].n_unique() < 2:
        return found
    for name, metric in METRICS.items():
        means = average_points(add_errors(part, metric, log=True), ["_large", "contexts_digest"]).to_dicts()
        rows = {row["_large"]: row for row in means}
        if any(row["value"] is None for row in means) or len(means) != len(rows):
            continue
        change, paired = subtract_rows(rows[True], rows[False])
        drop = Estimate(*(None if each is None else -math.expm1(each) for each in change))  # type: ignore[arg-type]
        found |= {name: drop.value, f"{name}_low": drop.high, f"{name}_high": drop.low}
        found |= {"paired": paired} if name == "drop" else {}
    return found


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == NO_LARGE:
        return (
            f"No block has a token of more than {LARGE_NORM:g} times the median norm, so there is nothing to compare."
        )
    if row["verdict"] == ALL_LARGE:
        return f"Every block has a token of more than {LARGE_NORM:g} times the median norm; no others can be compared."
    if row["drop"] is None:
        return "RankMe is null in a block."
    text = f"RankMe of the {row['large']} blocks with a large sink is {format_interval(row, 'drop', '.0%')} below that"
    text += f" of the {row['others']} others; without sink tokens {format_interval(row, 'drop_no_sink', '.0%')}"
    return f"{text}. {describe_claim(row['claim'], CLAIM)}"
