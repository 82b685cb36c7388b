"""Test data with known verdicts: frames of rows as `load_layer_rows` returns them, and real lakes of such rows."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline import lake as lakes
from pipeline.analysis.frames import NEEDED_COLUMNS
from pipeline.lake import Lake
from pipeline.lake.scan import polars_schema
from tests.support import lake_rows

TYPES = {name: polars_schema()[name] for name in NEEDED_COLUMNS} | {"groups": pl.Int64(), "audit": pl.String()}
SE = 0.01
GROUPS = 4
LAYERS = 12
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000)
HEADLINES = ("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90")

Curve = Callable[[np.ndarray], np.ndarray]
"""Function of depth or of the share of training, both in 0..1."""

SHAPES: dict[str, Curve] = {
    "dome": lambda x: 0.3 + 0.4 * np.sin(np.pi * x),
    "plateau": lambda x: np.minimum(0.3 + 2 * x, 0.7),
    "rising": lambda x: 0.3 + 0.4 * x,
    "falling": lambda x: 0.7 - 0.4 * x,
    "late": lambda x: 0.3 + 0.4 * np.exp(-(((x - 0.85) / 0.1) ** 2)),
    "valley": lambda x: 0.7 - 0.4 * np.sin(np.pi * x),
    "noise": lambda x: 0.5 + 0 * x,
}


def row(**changes: Any) -> dict[str, Any]:
    """Return one row of a small decoder that no rule of trust doubts."""
    return {
        "cell_id": "c",
        "model": "lab/small",
        "kind": "decoder",
        "corpus": "enwik8",
        "recipe": "quick@1",
        "revision": f"step{changes.get('step', 0)}",
        "step": 0,
        "weights_digest": f"w{changes.get('step', 0)}",
        "config_digest": "c",
        "tokenizer_digest": "t",
        "contexts_digest": "contexts",
        "superseded": False,
        "n_params": 1_000_000,
        "d_model": 64,
        "context_tokens": 128,
        "layer": 1,
        "depth": 0.5,
        "state": "block",
        "n_tokens": 12_800,
        "n_sink_tokens": 100,
        "n_points": 4000,
        **dict.fromkeys(("n_duplicates", "n_near_duplicates", "n_nonfinite", "n_unresolved"), 0),
        **dict.fromkeys(("same_context_share", "noise_ratio", "id_ks"), 0.01),
        "anisotropy": 0.5,
        "anisotropy_se": SE,
        "anisotropy_no_sink": 0.4,
        "anisotropy_no_sink_se": SE,
        "sink_variance_share": 0.2,
        "n_contexts": 100,
        "n_layer_sink_tokens": 102,
        "abs_max": 2000.0,
        "abs_median": 1.0,
        "norm_max": 4.0 if changes.get("layer", 1) % 2 else 4000.0,
        "norm_median": 2.0,
        "effective_rank_sigma": 20.0 if changes.get("layer", 1) % 2 else 10.0,
        "effective_rank_sigma_se": 0.2,
        "effective_rank_sigma_no_sink": 20.0,
        "effective_rank_sigma_no_sink_se": 0.2,
        "alpha": 1.0,
        "alpha_se": SE,
        "alpha_no_sink": 1.0,
        "alpha_no_sink_se": SE,
        "linearity": 0.97,
        "linearity_se": 0.001,
        "linearity_residual": 0.6,
        "cosine_mean": 0.3,
        "cosine_mean_se": SE,
        "status": "ok",
        "flags": [],
        "groups": GROUPS,
        **changes,
    }


def frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([{name: each.get(name) for name in TYPES} for each in rows], schema=TYPES)


def profile(shape: str = "dome", no_sink: str | None = None, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Return the blocks of one checkpoint, with noise of SE and standard errors of three degrees of freedom."""
    depth = np.arange(1, LAYERS + 1) / LAYERS
    x, random = (depth - depth[0]) / (1 - depth[0]), np.random.default_rng(seed)
    values, no_sink_values = (
        SHAPES[name](x) + SE * random.standard_normal(LAYERS) for name in (shape, no_sink or shape)
    )
    errors = stated_errors(random, LAYERS), stated_errors(random, LAYERS)
    names = ("depth", "anisotropy", "anisotropy_no_sink", "anisotropy_se", "anisotropy_no_sink_se")
    each = zip(*(column.tolist() for column in (depth, values, no_sink_values, *errors)), strict=True)
    return [row(layer=i, **dict(zip(names, one, strict=True)), **changes) for i, one in enumerate(each, 1)]


def training(shape: str, layers: int = 2, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Return a history of dimension with independent noise of 2 % per estimator."""
    random, share = np.random.default_rng(seed), np.arange(len(STEPS)) / (len(STEPS) - 1)
    rows = []
    for layer in range(1, layers + 1):
        curve = 20 * SHAPES[shape](share)
        for i, step in enumerate(STEPS):
            drawn = curve[i] * (1 + 0.02 * random.standard_normal(6))
            errors = 0.02 * drawn * stated_errors(random, 6) / SE
            headlines = dict(zip(HEADLINES, drawn[:4].tolist(), strict=True))
            headlines |= {f"{name}_se": float(error) for name, error in zip(HEADLINES, errors[:4], strict=True)}
            gride, gride_se = [1.0, 1.0, drawn[4], 1.0, drawn[5]], [0.1, 0.1, errors[4], 0.1, errors[5]]
            lists = {"id_gride_k": [1, 2, 4, 8, 16], "id_gride": gride, "id_gride_se": gride_se}
            rows.append(row(step=step, layer=layer, depth=layer / layers, **headlines, **lists, **changes))
    return rows


def add_groups(rows: list[dict[str, Any]], *names: str, groups: int = GROUPS, se: float = SE) -> list[dict[str, Any]]:
    """Add values per group whose errors are alike in all rows, so that differences of rows are exact to 0.1 SE."""
    random = np.random.default_rng(1)
    common = random.standard_normal(groups)
    common -= common.mean()
    common *= se / np.sqrt((common**2).sum() / (groups * (groups - 1)))
    for each in rows:
        for name in names:
            own = common + 0.1 * se * np.sqrt(groups) * random.standard_normal(groups)
            scale = each[name] if name.startswith("id_") else 1.0
            estimates = each[name] + scale * (own - own.mean())
            moments = each[name] - scale * (own - own.mean()) / (groups - 1)
            each[f"{name}_groups"] = (estimates if name.startswith("id_") else moments).tolist()
    return rows


def stated_errors(random: np.random.Generator, n: int) -> np.ndarray:
    """Sample estimates of SE from GROUPS groups."""
    return SE * np.sqrt(random.chisquare(GROUPS - 1, n) / (GROUPS - 1))


def commit(folder: Path, rows: Iterable[dict[str, Any]]) -> lakes.LakeReader:
    """Commit the rows to a new lake, one cell per (model, stage, run, step, corpus), and open it."""
    lake = Lake(folder)
    lake.record_recipe(lake_rows.QUICK)
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in rows:
        key = (each["model"], each.get("stage"), each.get("run"), each["step"], each["corpus"])
        cells.setdefault(key, []).append(each)
    for (model, stage, run, step, corpus), members in cells.items():
        revision = " ".join(word for word in (stage, run, f"step{step}") if word)
        own_weights = {"revision": revision, "weights": f"{model} {revision}"} if stage or run else {}
        point = lake_rows.checkpoint(step, model=model, kinds=(members[0]["kind"],), **own_weights)
        cell_id = lake_rows.sha(f"{model} {revision.removeprefix('step')} {corpus}")[:32]
        blank = lake_rows.rows(lake_rows.cell(point), cell_id, stage=None, run=None)[0]
        fixed = (
            "cell_id",
            "revision",
            "weights_digest",
            "config_digest",
            "tokenizer_digest",
            "groups",
            "audit",
            "recipe",
        )
        own = [{name: value for name, value in each.items() if name not in fixed} for each in members]
        assert lake.commit(cell_id, point.model_key, lakes.to_table([blank | each for each in own], {}))
    return lakes.open_lake(folder)
