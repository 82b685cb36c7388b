"""Convergence between models: are decoders more alike, at matched depth and on equal tokens, late than early?"""

from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED, describe_claim
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, add_because_column, format_interval, run_name
from pipeline.analysis.group_errors import Estimate
from pipeline.analysis.one_shape import select_early_and_late
from pipeline.analysis.recorded_cells import load_records, recorded_measures, select_recorded
from pipeline.analysis.similarities import (
    can_compare,
    estimate_columns,
    expected_similarity,
    jackknife_estimate,
    mean_similarity,
    shared_tokens,
)
from pipeline.lake.cell_records import CellRecords

SMALL_CHANGE = 0.05
"""Rise of similarity under which models have not converged."""
CONVERGE, DIVERGE, UNCHANGED = "converge", "diverge", "unchanged"
CLAIM = "models converge to one geometry in training"
Run = tuple[str, CellRecords, CellRecords]
"""Name, and records of the early and the last checkpoint."""


def select_recorded_early_and_late(lake: LakeOrFrame) -> pl.DataFrame:
    """Select the rows that `compute_model_convergence` needs: recorded decoders, at 1 % of training and at the end."""
    return select_recorded(select_early_and_late(lake))


def compute_model_convergence(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare the similarity between decoders at matched depth early (1 % of training) and late.

    One row per corpus, recipe, set of compared tokens and `measure` (cka, overlap_4). Columns: `verdict` (converge,
    diverge = the mean similarity rises or falls significantly; unchanged; too_few = under two decoders with records of
    the same tokens at both times, no_errors), `claim` (supports = converge; contradicts = diverge, or a rise of under
    0.05 at 95 %; undecided), `early` and `late` mean similarity over pairs of models and blocks, and `change`, each
    with its 95 % interval; `unrelated` (similarity of unrelated layers), `models`, `tokens`, `rows`, `because`.
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
_TYPES |= {"unrelated": pl.Float64(), "models": pl.List(pl.String()), "tokens": pl.Int64(), "rows": pl.Int64()}


def _runs_by_tokens(part: pl.DataFrame) -> list[list[Run]]:
    """Runs with an early and a last checkpoint, by the tokens of their records."""
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
    """Pair each block of the shallower model with the block of the other nearest in depth, as (first, second)."""
    if len(first.blocks) > len(second.blocks):
        return [(a, b) for b, a in match_blocks(second, first)]
    near = {a: min(second.blocks, key=lambda b: abs(second.depths[b] - first.depths[a])) for a in first.blocks}
    return list(near.items())


def _compare_runs(part: pl.DataFrame, runs: list[Run], measure: str) -> dict[str, Any]:
    tokens = shared_tokens([cell for _, *pair in runs for cell in pair])
    row: dict[str, Any] = {"corpus": part["corpus"][0], "recipe": part["recipe"][0], "measure": measure}
    row |= {"models": sorted(name for name, *_ in runs), "tokens": tokens.count, "rows": part.height}
    if len(runs) < 2 or not can_compare(tokens):
        return row | {"verdict": TOO_FEW, "claim": UNDECIDED}
    times = []
    for at in (1, 2):
        cells: list[CellRecords] = [run[at] for run in runs]  # type: ignore[misc]
        pairs = [mean_similarity(a, b, match_blocks(a, b), tokens, measure) for a, b in combinations(cells, 2)]
        times.append((np.mean([value for value, _ in pairs]), np.mean([without for _, without in pairs], axis=0)))
    (early, early_parts), (late, late_parts) = times
    change = jackknife_estimate(late - early, late_parts - early_parts)
    row |= estimate_columns("early", jackknife_estimate(early, early_parts))
    row |= estimate_columns("late", jackknife_estimate(late, late_parts)) | estimate_columns("change", change)
    return row | {"unrelated": expected_similarity(measure, tokens)} | _judge(change)


def _judge(change: Estimate) -> dict[str, str]:
    if change.low is None or change.high is None:
        return {"verdict": NO_ERRORS, "claim": UNDECIDED}
    if change.low > 0:
        return {"verdict": CONVERGE, "claim": SUPPORTS}
    apart = change.high < SMALL_CHANGE
    return {"verdict": DIVERGE if change.high < 0 else UNCHANGED, "claim": CONTRADICTS if apart else UNDECIDED}


def _sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == TOO_FEW:
        found = f"{len(row['models'])} decoders have records of the same tokens near 1 % of training and at its end"
        return f"{found}; these are too few decoders or tokens to compare."
    text = {
        CONVERGE: "rises significantly",
        DIVERGE: "falls significantly",
        UNCHANGED: "does not change significantly",
        NO_ERRORS: "has no errors: the records have one group of contexts",
    }[row["verdict"]]
    numbers = f"{format_interval(row, 'early')} early, {format_interval(row, 'late')} late"
    models, null = len(row["models"]), f"unrelated layers have {row['unrelated']:.3f}"
    what = f"The mean {row['measure']} of {models} decoders at matched depth {text}"
    return f"{what}: {numbers}; {null}. {describe_claim(row['claim'], CLAIM)}"
