"""Similarity of models at the peak of intrinsic dimension: are layers of high dimension more alike across models?"""

from itertools import combinations
from typing import Any, NamedTuple

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
    can_compare,
    estimate_columns,
    jackknife_estimate,
    mean_similarity,
    shared_tokens,
)
from pipeline.lake.cell_records import CellRecords

DIMENSION = "id_twonn"
MORE_ALIKE, LESS_ALIKE, UNDECIDED_YET = "peak_more_alike", "peak_less_alike", "undecided"
SMALL_GAIN = 0.02
"""Gain of similarity at the peak under which models count as equally alike there."""
CLAIM = "the layers of highest dimension are those most alike across models"


class Model(NamedTuple):
    """Newest checkpoint of one history."""

    name: str
    cell: CellRecords
    peak: int
    """Block of the highest intrinsic dimension."""


def select_recorded_newest(lake: LakeOrFrame) -> pl.DataFrame:
    """Select the rows that `compute_peak_overlap` needs: blocks of newest checkpoints with similarity records."""
    return select_recorded(select_block_rows(select_newest_rows(load_layer_rows(lake))))


def compute_peak_overlap(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the similarity of models at their peaks of intrinsic dimension (TwoNN) with that at other depths.

    One row per pair of models with records of the same tokens, and `measure` (cka, overlap_4). Columns: `corpus`,
    `recipe`, `model`, `other_model`, `verdict` (peak_more_alike, peak_less_alike = significantly; undecided; too_few =
    under 3 blocks, no_errors), `claim` (Cheng et al. 2025: supports = more alike by over 0.02 at 95 %; contradicts =
    less alike, or more by under 0.02; undecided), `at_peak` (similarity of the two peaks), `elsewhere` (mean over the
    other blocks, each with the one nearest in depth) and `gain`, each with its 95 % interval; `peak` and `other_peak`
    (layers), `tokens`, `rows`, `because`.
    Bias: a peak is the block of the largest estimate; the error of its position is ignored. Cheng et al. use
        information imbalance.
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
_TYPES |= dict.fromkeys(("peak", "other_peak", "tokens", "rows"), pl.Int64())


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
            models.append(Model(name, cell, int(blocks.sort(DIMENSION)["layer"][-1])))
    return models


def _compare(one: Model, other: Model, measure: str) -> dict[str, Any]:
    tokens = shared_tokens([one.cell, other.cell])
    pairs = [(a, b) for a, b in match_blocks(one.cell, other.cell) if a != one.peak and b != other.peak]
    row: dict[str, Any] = {"model": one.name, "other_model": other.name, "measure": measure, "rows": len(pairs) + 1}
    row |= {"peak": one.peak, "other_peak": other.peak, "tokens": tokens.count, "claim": UNDECIDED}
    if len(pairs) < 2 or not can_compare(tokens):
        return row | {"verdict": TOO_FEW}
    peak = mean_similarity(one.cell, other.cell, [(one.peak, other.peak)], tokens, measure)
    rest = mean_similarity(one.cell, other.cell, pairs, tokens, measure)
    gain = jackknife_estimate(peak[0] - rest[0], peak[1] - rest[1])
    row |= estimate_columns("at_peak", jackknife_estimate(*peak)) | estimate_columns("gain", gain)
    return row | estimate_columns("elsewhere", jackknife_estimate(*rest)) | _judge(gain)


def _judge(gain: Estimate) -> dict[str, str]:
    if gain.low is None or gain.high is None:
        return {"verdict": NO_ERRORS, "claim": UNDECIDED}
    verdict = MORE_ALIKE if gain.low > 0 else LESS_ALIKE if gain.high < 0 else UNDECIDED_YET
    if gain.low > SMALL_GAIN:
        return {"verdict": verdict, "claim": SUPPORTS}
    return {"verdict": verdict, "claim": CONTRADICTS if gain.high < SMALL_GAIN else UNDECIDED}


def _sentence(row: dict[str, Any]) -> str:
    names = f"{row['model']} and {row['other_model']}"
    if row["verdict"] == TOO_FEW:
        return f"{names} have too few blocks or ordinary tokens in common to compare."
    text = {
        MORE_ALIKE: "are significantly more alike at their peaks of dimension than elsewhere",
        LESS_ALIKE: "are significantly less alike at their peaks of dimension than elsewhere",
        UNDECIDED_YET: "are as alike at their peaks of dimension as elsewhere, within error",
        NO_ERRORS: "have no errors: the records have one group of contexts",
    }[row["verdict"]]
    numbers = f"{row['measure']} {format_interval(row, 'at_peak')} at blocks {row['peak']} and {row['other_peak']}"
    rest = f"{format_interval(row, 'elsewhere')} elsewhere"
    return f"{names} {text}: {numbers}, {rest}. {describe_claim(row['claim'], CLAIM)}"
