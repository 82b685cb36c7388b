"""Rearrangement of token neighbourhoods over depth: gradual, in one step, or complete from each block to the next.

A step is the change from one block to the next. Its size is the share of neighbours that the two blocks do not have in
common: 1 minus their overlap.
"""

from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
)
from pipeline.analysis.recorded_cells import iter_newest_cells
from pipeline.analysis.similarities import (
    NO_ERRORS_REASON,
    can_compare,
    compare_layers,
    count_along,
    describe_lack,
    estimate_columns,
    expected_similarity,
    jackknife_estimate,
    rests_on_few,
    shared_tokens,
)
from pipeline.lake.cell_records import CellRecords

MEASURED = ("overlap_4", "overlap_16")
MIN_BLOCKS = 4
"""Number of blocks that the test needs. With three there are two steps, and one of two steps always makes at least half
of the rearrangement."""
ALIKE, KEPT, LARGEST = 0.1, 0.1, 0.5
"""Bounds of the columns `fall`, `kept` and `largest` of `compute_rearrangement`."""
GRADUAL, ONE_STEP, SCRAMBLED, ONE_GEOMETRY = "gradual", "one_step", "scrambled", "one_geometry"
CLAIM = "neighbourhoods are rearranged gradually over depth"
_TYPES: dict[str, Any] = dict.fromkeys((*HISTORY_COLUMNS, "revision", "measure", "verdict", "claim"), pl.String())
_TYPES |= {f"{n}{end}": pl.Float64() for n in ("fall", "kept", "largest") for end in ("", "_low", "_high")}
_TYPES |= {"largest_at": pl.Int64(), "neighbours": pl.Float64(), "ends": pl.Float64(), "unrelated": pl.Float64()}
_TYPES |= dict.fromkeys(("blocks", "tokens", "counted", "rows"), pl.Int64())


def compute_rearrangement(lake: LakeOrFrame) -> pl.DataFrame:
    """Test how the neighbourhoods of tokens change from block to block, at the newest checkpoint of each history.

    Columns, one row per history and measure:

    - the keys of a history, `revision`
    - `measure`: `overlap_4` or `overlap_16`
    - `verdict`, each at 95 %:
        - `gradual`: `fall` and `kept` are above 0.1, and `largest` is below a half.
        - `scrambled`: `kept` is below 0.1, so that neighbouring blocks are hardly more alike than unrelated layers.
        - `one_geometry`: `fall` is below 0.1, so that the first and the last block are about as alike as neighbours.
        - `one_step`: `largest` is above a half, so that one step makes most of the rearrangement.
        - `undecided`: none of these is significant.
        - `too_few`: there are fewer than 4 blocks or too few ordinary tokens (no sinks), or under a quarter of these
          count in a pair of blocks.
        - `no_errors`: there is only one group of contexts, or an overlap has no value without one of the groups.
    - `claim` (neighbourhoods are rearranged gradually over depth): `supports` for gradual; `contradicts` for scrambled,
      one_geometry and one_step; else `undecided`
    - `fall`: mean overlap of neighbouring blocks minus the overlap of the first and the last block
    - `kept`: mean overlap of neighbouring blocks minus that of unrelated layers
    - `largest`: size of the largest step as a share of the sum of all steps
    - `fall`, `kept` and `largest` have 95 % intervals in the columns with the endings `_low` and `_high`
    - `largest_at`: block after which the largest step comes
    - `neighbours`, `ends`: mean overlap of neighbouring blocks, and overlap of the first and the last block
    - `unrelated`: expected overlap of unrelated layers
    - `blocks`, `tokens`: numbers of blocks and of ordinary tokens
    - `counted`: number of ordinary tokens that count: their recorded lists keep enough ordinary neighbours in both
      blocks of a pair; smallest over the pairs
    - `rows`: number of blocks
    - `because`: the result in one or two sentences
    """
    found = [_summarize(*each) for each in iter_newest_cells(lake, MEASURED)]
    return add_because_column(pl.DataFrame(found, schema=_TYPES).sort(*HISTORY_COLUMNS), _sentence)


def _summarize(row: dict[str, Any], cell: CellRecords, measure: str) -> dict[str, Any]:
    tokens, blocks = shared_tokens([cell]), cell.blocks
    row = row | {"claim": UNDECIDED}
    if len(blocks) < MIN_BLOCKS or not can_compare(tokens):
        return row | {"verdict": TOO_FEW}
    layers, unrelated = [cell.layers[block] for block in blocks], expected_similarity(measure, tokens)
    found = compare_layers(layers, layers, tokens, measure)
    row |= {"counted": count_along(found)}
    if rests_on_few(row["counted"], tokens):
        return row | {"verdict": TOO_FEW}
    parts = _measure_steps(np.concatenate([found.value[None], found.without]), unrelated)
    for name in ("fall", "kept", "largest"):
        row |= estimate_columns(name, jackknife_estimate(float(parts[name][0]), parts[name][1:]))
    row |= {"largest_at": blocks[int(parts["at"])], "unrelated": unrelated}
    row |= {"neighbours": float(parts["kept"][0]) + unrelated, "ends": float(found.value[0, -1])}
    return row | _judge(row)


def _measure_steps(overlap: np.ndarray, unrelated: float) -> dict[str, np.ndarray]:
    """Return arrays of `fall`, `kept` and `largest`, with one value per part, and the index `at` of the largest step.

    Args:
        overlap: overlaps of all pairs of blocks, [parts, blocks, blocks]. Part 0 uses all tokens, and its largest step
            is the one at `at`. Each other part leaves out one group of contexts.
        unrelated: expected overlap of unrelated layers.
    """
    near = overlap.diagonal(1, 1, 2)
    steps = 1 - near
    at = steps[0].argmax()
    total = steps.sum(1)
    largest = np.divide(steps[:, at], total, out=np.full_like(total, np.nan), where=total > 0)
    return {"fall": near.mean(1) - overlap[:, 0, -1], "kept": near.mean(1) - unrelated, "largest": largest, "at": at}


def _judge(row: dict[str, Any]) -> dict[str, str]:
    if row["fall_low"] is None or row["kept_low"] is None:
        return {"verdict": NO_ERRORS}
    if row["kept_high"] < KEPT:
        return {"verdict": SCRAMBLED, "claim": CONTRADICTS}
    if row["fall_high"] < ALIKE:
        return {"verdict": ONE_GEOMETRY, "claim": CONTRADICTS}
    if row["largest_low"] is not None and row["largest_low"] > LARGEST:
        return {"verdict": ONE_STEP, "claim": CONTRADICTS}
    below = row["largest_high"] is not None and row["largest_high"] < LARGEST
    gradual = below and row["fall_low"] > ALIKE and row["kept_low"] > KEPT
    return {"verdict": GRADUAL, "claim": SUPPORTS} if gradual else {"verdict": UNDECIDED}


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == TOO_FEW and row["counted"] is not None:
        return f"The blocks are not compared: {describe_lack(row)}."
    if row["verdict"] == TOO_FEW:
        return f"{row['blocks']} blocks on {row['tokens']} ordinary tokens are too few to compare."
    text = {
        GRADUAL: "Neighbourhoods are rearranged gradually over depth",
        ONE_STEP: f"One step, after block {row['largest_at']}, makes most of the rearrangement",
        SCRAMBLED: "Neighbouring blocks are hardly more alike than unrelated layers",
        ONE_GEOMETRY: "The first and the last block are as alike as neighbouring blocks, within 0.1",
        UNDECIDED: "Whether neighbourhoods are rearranged gradually is within error",
        NO_ERRORS: f"There are no errors: {NO_ERRORS_REASON}",
    }[row["verdict"]]
    overlaps = f"{row['measure']} of neighbouring blocks {row['neighbours']:.3f}, of the ends {row['ends']:.3f}"
    largest = f"share of the largest step {format_interval(row, 'largest', '.2f')}"
    null = f"unrelated layers have {row['unrelated']:.3f}"
    return f"{text}: {overlaps}; {largest}; {null}. {describe_claim(row['claim'], CLAIM)}"
