"""Convergence between models: are decoders more alike late in training than early, at matched depth on equal tokens?"""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.analysis.checkpoint_similarity import FEW_TOKENS, NO_GEOMETRY, name_left_out
from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, add_because_column, format_interval, run_name
from pipeline.analysis.group_errors import Estimate
from pipeline.analysis.one_shape import select_early_and_late
from pipeline.analysis.recorded_cells import load_records, recorded_measures, select_recorded
from pipeline.analysis.similarities import (
    NO_ERRORS_REASON,
    MeanSimilarity,
    can_compare,
    describe_bound,
    estimate_columns,
    expected_similarity,
    jackknife_estimate,
    mean_similarity,
    shared_tokens,
    widen,
)
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.record import ComparedTokens

SMALL_CHANGE = 0.05
"""A rise of the mean similarity by more than this supports convergence, a smaller one contradicts it (95 %)."""
CONVERGE, DIVERGE, UNCHANGED = "converge", "diverge", "unchanged"
CLAIM = "models converge to one geometry in training"
Run = tuple[str, CellRecords, CellRecords]
"""Name of a run, records of its early checkpoint, and records of its last checkpoint."""


def select_recorded_early_and_late(lake: LakeOrFrame) -> pl.DataFrame:
    """Select the rows that `compute_model_convergence` needs.

    These are the rows of decoders with similarity records, at the checkpoint nearest to 1 % of training and at the last
    one.
    """
    return select_recorded(select_early_and_late(lake))


def compute_model_convergence(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the similarity between decoders at matched depth early in training with that at the end.

    Early is the checkpoint nearest to 1 % of training. A pair of models is compared on the tokens that are ordinary,
    which means no sinks, in both models at both times.

    Columns, one row per corpus, recipe, set of compared tokens and measure:

    - `corpus`, `recipe`
    - `measure`: `cka` or `overlap_4`
    - `verdict`:
        - `converge`: the mean similarity rises significantly, also for whole kernels.
        - `diverge`: the mean similarity falls significantly, also for whole kernels.
        - `unchanged`: it does neither.
        - `too_few`: fewer than two decoders have records of the same tokens at both times, or no pair of them can be
          compared.
        - `no_errors`: there is only one group of contexts, or a mean has no value without one of the groups.
    - `claim` (models converge to one geometry in training): `supports` if the change is surely above 0.05,
      `contradicts` if it is surely below 0.05 (95 %, also for whole kernels), otherwise `undecided`
    - `early`, `late`: mean similarity over pairs of models and of matched blocks
    - `change`: `late` minus `early`
    - `early`, `late` and `change` have 95 % intervals in the columns with the endings `_low` and `_high`
    - `bound`: largest difference of `change` from that of the CKA of whole kernels; 0 for overlaps
    - `unrelated`: expected similarity of unrelated layers
    - `models`: names of the decoders
    - `left_out`: models without geometry, and pairs with too few ordinary tokens, each with the reason
    - `tokens`: number of ordinary tokens of the pair that has fewest
    - `rows`: number of rows of this corpus and recipe
    - `because`: the result in one or two sentences

    Bias: the interval covers the variation of these models over contexts; it does not extend to other models.
    """
    frame = select_recorded_early_and_late(lake)
    found = []
    for part in frame.partition_by("corpus", "recipe", maintain_order=True):
        for runs in _runs_by_tokens(part):
            cells = [cell for _, *pair in runs for cell in pair]
            found += [_compare_runs(part, runs, measure) for measure in recorded_measures(cells)]
    table = pl.DataFrame(found, schema=_TYPES).sort("corpus", "recipe", "models", "measure")
    return add_because_column(table, _sentence)


_TYPES: dict[str, Any] = dict.fromkeys(("corpus", "recipe", "measure", "verdict", "claim"), pl.String())
_TYPES |= {f"{n}{end}": pl.Float64() for n in ("early", "late", "change") for end in ("", "_low", "_high")}
_TYPES |= dict.fromkeys(("models", "left_out"), pl.List(pl.String()))
_TYPES |= {"bound": pl.Float64(), "unrelated": pl.Float64(), "tokens": pl.Int64(), "rows": pl.Int64()}


def _runs_by_tokens(part: pl.DataFrame) -> list[list[Run]]:
    """Return lists of the runs whose records have the same tokens.

    Runs without an early checkpoint, or with records of other tokens there than at the last one, are left out.
    """
    records = load_records(part)
    runs: dict[str, list[Run]] = {}
    for history in part.sort("step").partition_by(*HISTORY_COLUMNS, maintain_order=True):
        ids = [cell_id for cell_id in history["cell_id"].unique(maintain_order=True) if cell_id in records]
        if len(ids) == 2 and records[ids[0]].tokens_digest == records[ids[1]].tokens_digest:
            early, late = (records[cell_id] for cell_id in ids)
            name = history.select(run_name()).item(0, 0)
            runs.setdefault(late.tokens_digest, []).append((name, early, late))
    return list(runs.values())


def match_blocks(first: CellRecords, second: CellRecords) -> list[tuple[int, int]]:
    """Pair each block of the model with fewer blocks with the block of the other model that is nearest in depth.

    Each pair has the block of `first` first. There are no pairs if one of the models has no block with geometry.
    """
    if not first.blocks or not second.blocks:
        return []
    if len(first.blocks) > len(second.blocks):
        return [(a, b) for b, a in match_blocks(second, first)]
    near = {a: min(second.blocks, key=lambda b: abs(second.depths[b] - first.depths[a])) for a in first.blocks}
    return list(near.items())


class Change(NamedTuple):
    """Similarity of two runs early and late in training, on the tokens that are ordinary in both runs at both times."""

    tokens: ComparedTokens
    early: MeanSimilarity
    late: MeanSimilarity


def _compare_runs(part: pl.DataFrame, runs: list[Run], measure: str) -> dict[str, Any]:
    row: dict[str, Any] = {"corpus": part["corpus"][0], "recipe": part["recipe"][0], "measure": measure}
    row |= {"models": sorted(name for name, *_ in runs), "rows": part.height}
    usable = [run for run in runs if run[1].blocks and run[2].blocks]
    pairs = [(one[0], other[0], _compare_pair(one, other, measure)) for one, other in combinations(usable, 2)]
    known = [found for *_, found in pairs if found]
    without = [f"{name} ({NO_GEOMETRY})" for name in sorted({name for name, *_ in runs} - {run[0] for run in usable})]
    few = [f"{one} with {other} ({FEW_TOKENS})" for one, other, found in pairs if found is None]
    row |= {"left_out": without + few, "tokens": min((found.tokens.count for found in known), default=0)}
    if not known or len({len(found.late.without) for found in known}) > 1:
        return row | {"verdict": TOO_FEW, "claim": UNDECIDED}
    return row | _summarize_changes(known, measure)


def _compare_pair(one: Run, other: Run, measure: str) -> Change | None:
    """Compare two runs early and late; None if too few tokens are ordinary in both runs at both times.

    None also if a similarity is not finite.
    """
    tokens = shared_tokens([one[1], one[2], other[1], other[2]])
    if not can_compare(tokens):
        return None
    times = ((one[1], other[1]), (one[2], other[2]))
    early, late = (mean_similarity(a, b, match_blocks(a, b), tokens, measure) for a, b in times)
    known = all(bool(np.isfinite(part).all()) for mean in (early, late) for part in (mean.value, mean.without))
    return Change(tokens, early, late) if known else None


def _summarize_changes(pairs: list[Change], measure: str) -> dict[str, Any]:
    early, late = _average([each.early for each in pairs]), _average([each.late for each in pairs])
    change = jackknife_estimate(late.value - early.value, late.without - early.without)
    row = {"bound": early.bound + late.bound if np.isfinite(early.bound + late.bound) else None}
    for name, mean in (("early", early), ("late", late)):
        row |= estimate_columns(name, jackknife_estimate(mean.value, mean.without))
    row |= estimate_columns("change", change)
    row |= {"unrelated": float(np.mean([expected_similarity(measure, each.tokens) for each in pairs]))}
    return row | _judge(widen(change, early.bound + late.bound))


def _average(pairs: list[MeanSimilarity]) -> MeanSimilarity:
    values, without, bounds, counted = zip(*pairs, strict=True)
    return MeanSimilarity(float(np.mean(values)), np.mean(without, axis=0), float(np.mean(bounds)), min(counted))


def _judge(change: Estimate) -> dict[str, str]:
    """Judge a change whose limits hold for whole kernels."""
    if change.low is None or change.high is None:
        return {"verdict": NO_ERRORS, "claim": UNDECIDED}
    verdict = CONVERGE if change.low > 0 else DIVERGE if change.high < 0 else UNCHANGED
    claim = SUPPORTS if change.low > SMALL_CHANGE else CONTRADICTS if change.high < SMALL_CHANGE else UNDECIDED
    return {"verdict": verdict, "claim": claim}


def _sentence(row: dict[str, Any]) -> str:
    return _describe(row) + name_left_out(row["left_out"])


def _describe(row: dict[str, Any]) -> str:
    if row["verdict"] == TOO_FEW:
        found = f"{len(row['models'])} decoders have records of the same tokens near 1 % of training and at its end"
        return f"{found}; these are too few decoders or tokens to compare."
    text = {
        CONVERGE: "rises significantly",
        DIVERGE: "falls significantly",
        UNCHANGED: "does not change significantly",
        NO_ERRORS: f"has no errors: {NO_ERRORS_REASON}",
    }[row["verdict"]]
    numbers = f"{format_interval(row, 'early')} early, {format_interval(row, 'late')} late"
    numbers += describe_bound(row, "change")
    models, null = len(row["models"]), f"unrelated layers have {row['unrelated']:.3f}"
    what = f"The mean {row['measure']} of {models} decoders at matched depth {text}"
    return f"{what}: {numbers}; {null}. {describe_claim(row['claim'], CLAIM)}"
