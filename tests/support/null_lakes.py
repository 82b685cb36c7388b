"""Lakes without any effect, in which every claim can be wrongly supported.

A recipe stands for a lake, since no finding compares across recipes. A finding that needs a true effect to be at risk
(a dome on text, a peak of RankMe) reads histories of its own, of which only the claim at risk is judged.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis import FINDINGS
from pipeline.analysis.claim_registry import load_claims
from pipeline.lake import Lake
from tests.support import claim_records, claim_rows, recorded_clouds
from tests.support.claim_rows import BLOCKS, DIMENSIONS, RANDOM, TEXT, flat, history, over_depth, over_training

Rows = list[dict[str, Any]]
OF_RECORDS = ("settling", "rearrangement", "peak_overlap")
OF_OWN_ROWS = ("explosions", "onset", "nulls", *OF_RECORDS)
CHECKPOINTS, MODELS = 60, 8
"""Checkpoints of the history whose loss spikes, and models with an onset of dimension."""
RANK = ("effective_rank_sigma", "effective_rank_sigma_no_sink")


def find_in_null_lakes(folder: Path, lakes: int, error: float, groups: int) -> dict[str, pl.DataFrame]:
    """Tables of all findings that claims need, over lakes with the recipes `quick@0` and so on."""
    names = {claim.finding for claim in load_claims().values()} & set(FINDINGS)
    base = _frame(_flat_models(i, error, groups) for i in range(lakes))
    found = {name: FINDINGS[name].answer(base) for name in names - set(OF_OWN_ROWS)}
    phases = FINDINGS["trends"].answer(_frame(_phases_of_rank(i, error, groups) for i in range(lakes)))
    found["trends"] = pl.concat([found["trends"], phases.filter(metric="alpha")])
    own = {"explosions": _spiking_walk, "onset": _models_with_onsets, "nulls": _half_on_random_tokens}
    found |= {
        name: FINDINGS[name].answer(_frame(make(i, error, groups) for i in range(lakes))) for name, make in own.items()
    }
    records = [row for i in range(lakes) for row in _recorded(folder / str(i), i, groups)]
    return found | {name: FINDINGS[name].answer(recorded_clouds.frame(records)) for name in OF_RECORDS}


def _frame(parts: Iterator[Rows]) -> pl.DataFrame:
    return claim_rows.frame(*parts)


def _flat_models(i: int, error: float, groups: int) -> Rows:
    """Two decoders and an encoder on text and random tokens; linearity and cosine lie at the bounds of their claims."""
    rows = []
    for j, (model, kind) in enumerate((("lab/pythia-1b", "decoder"), ("lab/b", "decoder"), ("lab/c", "encoder"))):
        for k, corpus in enumerate((TEXT, RANDOM)):
            keys = {"model": model, "kind": kind, "recipe": f"quick@{i}", "corpus": corpus, "contexts_digest": corpus}
            common = {"error": error, "seed": 100 * i + 10 * j + k, "groups": groups}
            rows += history(n_params=10**9, linearity_residual=0.85, **common, **keys)
    return rows


def _phases_of_rank(i: int, error: float, groups: int) -> Rows:
    """The phases of RankMe, and an alpha that does not move."""
    truth = dict.fromkeys(RANK, over_training(30, 10, 60, 20))
    return history(truth, error, 1_000_000 + i, groups, model="lab/phases", recipe=f"quick@{i}")


def _half_on_random_tokens(i: int, error: float, groups: int) -> Rows:
    """Half of the dome and of the rise and fall on random tokens, and an equal peak of dimension over depth."""
    sides = {TEXT: (0.3, over_training(20, 40, 25)), RANDOM: (0.15, over_training(20, 26, 20))}
    rows = []
    for k, (corpus, (height, course)) in enumerate(sides.items()):
        truth = dict.fromkeys(("anisotropy", "anisotropy_no_sink"), over_depth(height))
        truth |= dict.fromkeys(DIMENSIONS, course * over_depth(10, 20) / 20)
        keys = {"model": "lab/half", "recipe": f"quick@{i}", "corpus": corpus, "contexts_digest": corpus}
        rows += history(truth, error, 2_000_000 + 2 * i + k, groups, **keys)
    return rows


def _models_with_onsets(i: int, error: float, groups: int) -> Rows:
    """Decoders whose dimension starts to rise in blocks that have nothing to do with their losses."""
    random, x, rows = np.random.default_rng(i), np.arange(BLOCKS + 2), Rows()
    for j in range(MODELS):
        onset = random.integers(1, BLOCKS - 2)
        curve = 20 + 20 * np.clip(x - onset, 0, 1) + 0.5 * np.clip(onset - x, 0, None) - 25 * (x >= BLOCKS)
        truth: Mapping[str, Any] = dict.fromkeys(DIMENSIONS, flat(1) * curve)
        truth = {**truth, "loss": flat(3 + 0.2 * random.standard_normal())}
        made = history(truth, error, 3_000_000 + 100 * i + j, groups, model=f"lab/onset{j}", recipe=f"quick@{i}")
        rows += [row for row in made if row["step"] == claim_rows.STEPS[-1]]
    return rows


def _spiking_walk(i: int, error: float, groups: int) -> Rows:
    """One block whose dimension and loss are independent random walks; the loss spikes once."""
    walks = np.random.default_rng(i).standard_normal((2, CHECKPOINTS)).cumsum(1) * 0.02
    losses = 3 * np.exp(walks[1]) + 3 * (np.arange(CHECKPOINTS) == 45)
    return [
        claim_rows.finding_rows.row(
            step=100 * at, corpus=TEXT, recipe=f"quick@{i}", id_mle=float(20 * np.exp(walks[0, at])), loss=float(loss)
        )
        for at, loss in enumerate(losses)
    ]


def _recorded(folder: Path, i: int, groups: int) -> Rows:
    """Blocks that settle at one time, and two models of equally alike blocks with a peak of dimension inside."""
    rng, tokens = np.random.default_rng(i), 64
    blocks = [claim_records.moving(rng, [0, 0.5, 0.9, 0.99, 1], tokens) for _ in range(4)]
    rows = claim_records.settling(folder, blocks, groups=groups)
    shared, heights = claim_records.cloud(rng, tokens), [1.0, *(rng.permutation(2) + 2.0), 1.0]
    for model in ("a", "b"):
        clouds = [shared + 0.8 * claim_records.cloud(rng, tokens) for _ in range(4)]
        rows += recorded_clouds.add_cell(Lake(folder), model, 5, clouds, heights, "shared", groups=groups)
    return [row | {"recipe": f"quick@{i}"} for row in rows]
