"""Similarity of models at their peaks of intrinsic dimension: is it higher than on average over the other blocks?"""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    run_name,
    select_block_rows,
    select_newest_rows,
)
from pipeline.analysis.group_errors import Estimate
from pipeline.analysis.model_convergence import match_blocks
from pipeline.analysis.recorded_cells import load_records, recorded_measures, select_recorded
from pipeline.analysis.similarities import (
    NO_ERRORS_REASON,
    can_compare,
    describe_bound,
    describe_lack,
    estimate_columns,
    jackknife_estimate,
    mean_similarity,
    rests_on_few,
    shared_tokens,
    widen,
)
from pipeline.lake.cell_records import CellRecords

DIMENSION = "id_twonn"
MORE_ALIKE, LESS_ALIKE, UNDECIDED_YET, NO_PEAK = "peak_more_alike", "peak_less_alike", "undecided", "no_peak"
SMALL_GAIN = 0.02
"""Models count as no more alike at their peaks if the gain of similarity there is below this (95 %)."""
CLAIM = "models are more alike at their peaks of dimension than at the mean of their other layers"


class Model(NamedTuple):
    """Newest checkpoint of one history, with the place of its peak of dimension."""

    name: str
    """Names of model, kind, stage and run, for display."""
    cell: CellRecords
    peak: int
    """Index of the layer with the highest TwoNN dimension among the blocks that have a record."""
    interior: bool
    """True if this layer is neither the first nor the last of these blocks."""


def select_recorded_newest(lake: LakeOrFrame) -> pl.DataFrame:
    """Select the rows that `compute_peak_overlap` needs: the blocks of newest checkpoints with similarity records."""
    return select_recorded(select_block_rows(select_newest_rows(load_layer_rows(lake))))


def compute_peak_overlap(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the similarity of two models at their peaks of intrinsic dimension (TwoNN) with that at other depths.

    The peak of a model is its block of highest dimension, if that is neither the first nor the last block. Each pair of
    models is compared on its common tokens, those that are ordinary (no sinks) in both models.

    Columns, one row per pair of models whose records are of the same tokens, and per measure:

    - `corpus`, `recipe`
    - `model`, `other_model`: display names of the two models
    - `measure`: `cka` or `overlap_4`
    - `verdict`:
        - `peak_more_alike`: the models are significantly more alike at their peaks than elsewhere, also for whole
          kernels.
        - `peak_less_alike`: the models are significantly less alike at their peaks than elsewhere, also for whole
          kernels.
        - `undecided`: neither holds.
        - `no_peak`: the dimension of one of the models is highest in its first or last block.
        - `too_few`: beside the peaks there are fewer than two pairs of matched blocks, there are too few common tokens,
          or a similarity has no value.
        - `no_errors`: there is only one group of contexts, or a similarity has no value without one of the groups.
    - `claim` (after Cheng et al. 2025: models are more alike at their peaks than at the mean of their other layers):
      `supports` if the whole interval of `gain` is above 0.02, `contradicts` if it is below 0.02 (also for whole
      kernels), else `undecided`
    - `at_peak`: similarity of the peak of one model to the peak of the other
    - `elsewhere`: mean similarity over the matched blocks that are no peaks; a block is matched with the block of the
      other model nearest in depth
    - `gain`: `at_peak` minus `elsewhere`
    - `at_peak`, `elsewhere` and `gain` have 95 % intervals in the columns with the endings `_low` and `_high`
    - `bound`: largest difference of `gain` from that of the CKA of whole kernels; 0 for overlaps
    - `peak`, `other_peak`: indices of the layers that are the peaks of `model` and of `other_model`
    - `tokens`: number of common tokens
    - `counted`: number of common tokens that count: for overlaps, those whose recorded lists keep enough common tokens
      in both blocks of a pair; smallest over the pairs
    - `rows`: number of compared pairs of blocks, the peaks included
    - `because`: the result in one or two sentences

    Bias: a peak is the block of the largest estimate, significant or not (see `depth`); the error of its position is
        ignored. Another block may be more alike than the peaks. Cheng et al. use information imbalance.
    """
    frame = select_recorded_newest(lake)
    found = []
    for part in frame.partition_by("corpus", "recipe", maintain_order=True):
        for one, other in combinations(_read_models(part), 2):
            if one.cell.tokens_digest == other.cell.tokens_digest:
                about = {"corpus": part["corpus"][0], "recipe": part["recipe"][0]}
                found += [about | _compare(one, other, m) for m in recorded_measures([one.cell, other.cell])]
    table = pl.DataFrame(found, schema=_TYPES).sort("corpus", "recipe", "model", "other_model", "measure")
    return add_because_column(table, _sentence)


_TYPES: dict[str, Any] = dict.fromkeys(("corpus", "recipe", "model", "other_model"), pl.String())
_TYPES |= dict.fromkeys(("measure", "verdict", "claim"), pl.String())
_TYPES |= {f"{n}{end}": pl.Float64() for n in ("at_peak", "elsewhere", "gain") for end in ("", "_low", "_high")}
_TYPES |= {"bound": pl.Float64()}
_TYPES |= dict.fromkeys(("peak", "other_peak", "tokens", "counted", "rows"), pl.Int64())


def _read_models(part: pl.DataFrame) -> list[Model]:
    records, models = load_records(part), []
    for history in part.partition_by(*HISTORY_COLUMNS, maintain_order=True):
        known = history.filter(pl.col("cell_id").is_in(list(records)) & pl.col(DIMENSION).is_not_null())
        if known.is_empty():
            continue
        cell = records[known["cell_id"][-1]]
        blocks = known.filter(pl.col("cell_id") == known["cell_id"][-1], pl.col("layer").is_in(cell.blocks))
        if not blocks.is_empty():
            name = history.select(run_name("model", "kind", "stage", "run")).item(0, 0)
            peak, layers = int(blocks.sort(DIMENSION)["layer"][-1]), blocks["layer"]
            models.append(Model(name, cell, peak, peak not in (layers.min(), layers.max())))
    return models


def _compare(one: Model, other: Model, measure: str) -> dict[str, Any]:
    tokens = shared_tokens([one.cell, other.cell])
    pairs = [(a, b) for a, b in match_blocks(one.cell, other.cell) if a != one.peak and b != other.peak]
    row: dict[str, Any] = {"model": one.name, "other_model": other.name, "measure": measure, "rows": len(pairs) + 1}
    row |= {"peak": one.peak, "other_peak": other.peak, "tokens": tokens.count, "claim": UNDECIDED}
    if not (one.interior and other.interior):
        return row | {"verdict": NO_PEAK}
    if len(pairs) < 2 or not can_compare(tokens):
        return row | {"verdict": TOO_FEW}
    peak = mean_similarity(one.cell, other.cell, [(one.peak, other.peak)], tokens, measure)
    rest = mean_similarity(one.cell, other.cell, pairs, tokens, measure)
    row |= {"counted": min(peak.counted, rest.counted)}
    if rests_on_few(row["counted"], tokens) or not np.isfinite(peak.value + rest.value):
        return row | {"verdict": TOO_FEW}
    bound = peak.bound + rest.bound
    gain = jackknife_estimate(peak.value - rest.value, peak.without - rest.without)
    row |= estimate_columns("at_peak", jackknife_estimate(peak.value, peak.without)) | estimate_columns("gain", gain)
    row |= estimate_columns("elsewhere", jackknife_estimate(rest.value, rest.without))
    return row | {"bound": bound} | _judge(widen(gain, bound))


def _judge(gain: Estimate) -> dict[str, str]:
    """Judge a difference whose limits hold for whole kernels."""
    if gain.low is None or gain.high is None:
        return {"verdict": NO_ERRORS, "claim": UNDECIDED}
    verdict = MORE_ALIKE if gain.low > 0 else LESS_ALIKE if gain.high < 0 else UNDECIDED_YET
    if gain.low > SMALL_GAIN:
        return {"verdict": verdict, "claim": SUPPORTS}
    return {"verdict": verdict, "claim": CONTRADICTS if gain.high < SMALL_GAIN else UNDECIDED}


def _sentence(row: dict[str, Any]) -> str:
    names = f"{row['model']} and {row['other_model']}"
    if row["verdict"] == NO_PEAK:
        return f"{names} are not compared: the dimension of one is highest in its first or last block."
    if row["verdict"] == TOO_FEW and row["counted"] is not None:
        return f"{names} are not compared: {describe_lack(row)}."
    if row["verdict"] == TOO_FEW:
        return f"{names} have too few blocks or ordinary tokens in common to compare."
    text = {
        MORE_ALIKE: "are significantly more alike at their peaks of dimension than on average elsewhere",
        LESS_ALIKE: "are significantly less alike at their peaks of dimension than on average elsewhere",
        UNDECIDED_YET: "are as alike at their peaks of dimension as elsewhere, within error or bound",
        NO_ERRORS: f"have no errors: {NO_ERRORS_REASON}",
    }[row["verdict"]]
    numbers = f"{row['measure']} {format_interval(row, 'at_peak')} at blocks {row['peak']} and {row['other_peak']}"
    rest = f"{format_interval(row, 'elsewhere')} on average elsewhere{describe_bound(row, 'difference')}"
    return f"{names} {text}: {numbers}, {rest}. {describe_claim(row['claim'], CLAIM)}"
