"""Similarity of the layers of one checkpoint: do all layers have one geometry, or are distant layers less similar?"""

from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
)
from pipeline.analysis.group_errors import Estimate
from pipeline.analysis.recorded_cells import has_groups, iter_newest_cells
from pipeline.analysis.similarities import (
    CKA,
    MEASURES,
    MIN_COUNTED,
    OVERLAPS,
    can_compare,
    compare_layers,
    count_along,
    describe_bound,
    describe_lack,
    estimate_columns,
    expected_similarity,
    jackknife_estimate,
    rests_on_few,
    shared_tokens,
    widen,
)
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.kernels import permuted_cka
from pipeline.similarity.neighbours import permuted_overlap
from pipeline.similarity.record import ComparedTokens, LayerRecord

MIN_BLOCKS = 3
ALIKE = 0.1
"""The first and the last block count as alike as neighbouring blocks if their similarity is lower by less than this."""
PERMUTATIONS = 199
GRADED, ONE_GEOMETRY, UNDECIDED_YET = "graded", "one_geometry", "undecided"


def compute_similarity(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the similarity of neighbouring blocks with that of the first and the last block.

    This is done at the newest checkpoint of each history, on its ordinary tokens, which are those that are no sinks.

    Columns, one row per history and measure:

    - the keys of a history, `revision`
    - `measure`: `cka`, `overlap_1`, `overlap_4` or `overlap_16`
    - `verdict`:
        - `graded`: the first and the last block are significantly less alike than neighbouring blocks, also for whole
          kernels.
        - `one_geometry`: they are not; the fall of similarity is below 0.1 (95 %), also for whole kernels.
        - `undecided`: neither holds.
        - `too_few`: there are fewer than 3 blocks or too few ordinary tokens, under a quarter of these count in a pair
          of blocks, or a similarity has no value.
        - `no_errors`: there is only one group of contexts, or a similarity has no value without one of the groups.
    - `neighbours`: mean similarity of neighbouring blocks
    - `ends`: similarity of the first and the last block
    - `fall`: `neighbours` minus `ends`
    - `neighbours`, `ends` and `fall` have 95 % intervals in the columns with the endings `_low` and `_high`
    - `bound`: largest difference of `fall` from that of the CKA of whole kernels; 0 for overlaps
    - `unrelated`: expected similarity of unrelated layers
    - `p`: share of permutations of the tokens at which the first and the last block are at least as alike
    - `blocks`, `tokens`: numbers of blocks and of ordinary tokens
    - `counted`: number of ordinary tokens that count: for overlaps, those whose recorded lists keep enough ordinary
      neighbours in both blocks of a pair; smallest over the pairs
    - `rows`: number of blocks
    - `because`: the result in one or two sentences
    """
    found = [_summarize(*each) for each in iter_newest_cells(lake, MEASURES)]
    return add_because_column(pl.DataFrame(found, schema=_TYPES).sort(*HISTORY_COLUMNS), _sentence)


_TYPES: dict[str, Any] = dict.fromkeys((*HISTORY_COLUMNS, "revision", "measure", "verdict"), pl.String())
_TYPES |= {f"{n}{end}": pl.Float64() for n in ("neighbours", "ends", "fall") for end in ("", "_low", "_high")}
_TYPES |= {"bound": pl.Float64(), "unrelated": pl.Float64(), "p": pl.Float64()}
_TYPES |= dict.fromkeys(("blocks", "tokens", "counted", "rows"), pl.Int64())


def _summarize(row: dict[str, Any], cell: CellRecords, measure: str) -> dict[str, Any]:
    tokens, blocks = shared_tokens([cell]), cell.blocks
    if len(blocks) < MIN_BLOCKS or not can_compare(tokens):
        return row | {"verdict": TOO_FEW}
    layers = [cell.layers[block] for block in blocks]
    found = compare_layers(layers, layers, tokens, measure)
    row |= {"counted": count_along(found)}
    if rests_on_few(row["counted"], tokens):
        return row | {"verdict": TOO_FEW}
    ends = {"value": found.value[0, -1], "without": found.without[:, 0, -1]}
    near = {"value": np.diagonal(found.value, 1).mean(), "without": found.without.diagonal(1, 1, 2).mean(1)}
    fall = jackknife_estimate(near["value"] - ends["value"], near["without"] - ends["without"])
    row |= estimate_columns("neighbours", jackknife_estimate(**near))  # type: ignore[arg-type]
    row |= estimate_columns("ends", jackknife_estimate(**ends)) | estimate_columns("fall", fall)  # type: ignore[arg-type]
    bound = float(found.bound[0, -1] + np.diagonal(found.bound, 1).mean())
    row |= {"bound": bound if np.isfinite(bound) else None, "unrelated": expected_similarity(measure, tokens)}
    row |= {"p": permutation_p(layers[0], layers[-1], tokens, measure, float(ends["value"]))}
    if not np.isfinite(fall.value):
        return row | {"verdict": TOO_FEW}
    return row | {"verdict": _judge(widen(fall, bound)) if has_groups(tokens) else NO_ERRORS}


def permutation_p(
    first: LayerRecord, second: LayerRecord, tokens: ComparedTokens, measure: str, value: float
) -> float | None:
    """Return the share of permutations of the second layer's tokens at which two layers are at least as similar.

    The given order counts as one of the permutations. None if the similarity is not finite, at this order or another.

    Args:
        value: similarity of the two layers at the given order.
    """
    if not np.isfinite(value):
        return None
    rng = np.random.default_rng(0)
    if measure == CKA:
        draws = permuted_cka(first, second, tokens, PERMUTATIONS, rng)
    else:
        draws = permuted_overlap(first, second, tokens, OVERLAPS[measure], PERMUTATIONS, rng)
    return float((1 + (draws >= value).sum()) / (1 + len(draws))) if np.isfinite(draws).all() else None


def _judge(fall: Estimate) -> str:
    if fall.low is None or fall.high is None:
        return NO_ERRORS
    if fall.low > 0:
        return GRADED
    return ONE_GEOMETRY if fall.high < ALIKE else UNDECIDED_YET


def _lack_of_values(measure: str) -> str:
    k = OVERLAPS.get(measure)
    return f"no token keeps {k} ordinary neighbours" if k else "the compared tokens, or all but one, have one state"


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == TOO_FEW and row["counted"] is not None:
        return f"The blocks are not compared: {describe_lack(row)}."
    if row["verdict"] == TOO_FEW:
        return f"{row['blocks']} blocks on {row['tokens']} ordinary tokens are too few to compare."
    without = f"{_lack_of_values(row['measure'])} without a group"
    if OVERLAPS.get(row["measure"]) == 1:
        without = f"under {MIN_COUNTED} tokens have the same nearest neighbour, or another one, in two layers"
    text = {
        GRADED: "The first and the last block are significantly less alike than neighbouring blocks",
        ONE_GEOMETRY: "The first and the last block are as alike as neighbouring blocks, within 0.1",
        UNDECIDED_YET: "The difference between the ends and neighbouring blocks is within error or bound",
        NO_ERRORS: f"There are no errors: the records have one group of contexts, or {without}",
    }[row["verdict"]]
    ends = f"{row['measure']} of the ends {format_interval(row, 'ends')}"
    ends += f", of neighbours {format_interval(row, 'neighbours')}{describe_bound(row, 'difference')}"
    p = "" if row["p"] is None else f"; p = {row['p']:.3f} by permutation of the tokens"
    return f"{text}: {ends}. Unrelated layers have {row['unrelated']:.3f}{p}."
