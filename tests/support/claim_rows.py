"""Histories of which the truth of every published claim is chosen: it holds, fails, or errors leave it open.

Values of the groups of contexts have errors shared by all rows and own errors, so that the rows are those of a real
lake: leave-one-out values for moments, estimates for dimension and loss.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from pipeline.columns import group_statistic
from tests.support import finding_rows

BLOCKS = 8
STEPS = (0, 64, 256, 1000, 2000, 4000, 8000, 16000)
GROUPS = 5
DIMENSIONS = ("id_mle", "id_lb20", "id_gride_4", "id_gride_16")
TEXT, RANDOM = "text:book", "random-uniform"
Truth = Mapping[str, np.ndarray]
"""True values by metric, [steps, layers 0..BLOCKS + 1]."""


def flat(value: float) -> np.ndarray:
    return np.full((len(STEPS), BLOCKS + 2), float(value))


def over_depth(height: float, base: float = 0.3) -> np.ndarray:
    """A half wave over the blocks, `height` above both ends."""
    x = (np.arange(BLOCKS + 2) - 1) / (BLOCKS - 1)
    return flat(base) + height * np.sin(np.pi * np.clip(x, 0, 1))


def over_training(*values: float) -> np.ndarray:
    """A curve through these values at equal distances of the checkpoints' indices, in every layer."""
    at = np.interp(np.arange(len(STEPS)), np.linspace(0, len(STEPS) - 1, len(values)), values)
    return np.repeat(at[:, None], BLOCKS + 2, axis=1)


FLAT: dict[str, np.ndarray] = {
    **{name: flat(20) for name in DIMENSIONS},
    **dict.fromkeys(("anisotropy", "anisotropy_no_sink"), flat(0.3)),
    **dict.fromkeys(("effective_rank_sigma", "effective_rank_sigma_no_sink"), flat(30)),
    **dict.fromkeys(("alpha", "alpha_no_sink"), flat(1)),
    "linearity": flat(0.9),
    "cosine_mean": flat(0.1),
    "loss": flat(3),
}
"""True values without any effect; linearity and cosine are at the bounds of their claims."""
LOG_SCALE = ("effective_rank_sigma", "effective_rank_sigma_no_sink", *DIMENSIONS)


def history(
    truth: Truth | None = None, error: float = 0.002, seed: int = 0, groups: int = GROUPS, **changes: Any
) -> list[dict[str, Any]]:
    """Rows of one history. Errors are relative for dimension and RankMe, else absolute."""
    random = np.random.default_rng(seed)
    values = {**FLAT, **(truth or {})}
    drawn = {name: _draw(name, value, error, groups, random) for name, value in values.items()}
    return [_row(drawn, at, layer, changes) for at in range(len(STEPS)) for layer in range(BLOCKS + 2)]


def _draw(name: str, truth: np.ndarray, error: float, groups: int, random: np.random.Generator) -> Any:
    """Value, standard error and values per group of a metric, at every step and layer."""
    common = random.standard_normal(groups)
    own = random.standard_normal((*truth.shape, groups))
    own = own[:, :1] if name == "loss" else own
    deviation = error * np.sqrt(groups) * (common + 0.5 * own)
    deviation = np.broadcast_to(deviation, (*truth.shape, groups))
    estimates = truth[..., None] * np.exp(deviation) if name in LOG_SCALE else truth[..., None] + deviation
    value = estimates.mean(-1)
    se = estimates.std(-1, ddof=1) / np.sqrt(groups)
    column = "id_gride" if name.startswith("id_gride") else name
    if group_statistic(column) == "leave_one_out":
        estimates = value[..., None] - (estimates - value[..., None]) / (groups - 1)
    return value, se, estimates


def _row(drawn: Mapping[str, Any], at: int, layer: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    step = STEPS[at]
    state = "embedding" if layer == 0 else "final_norm" if layer > BLOCKS else "block"
    fields: dict[str, Any] = {"layer": layer, "depth": min(layer / BLOCKS, 1.0), "state": state, "step": step}
    fields |= {"revision": f"step{step}", "weights_digest": f"{changes.get('model', '')}{step}", "corpus": TEXT}
    fields |= {"groups": drawn["loss"][2].shape[-1], "norm_max": 400.0 if 3 <= layer <= 6 else 4.0}
    fields |= {"tokens_seen": step * 1000 or None}
    for name, (value, se, estimates) in drawn.items():
        fields |= {name: float(value[at, layer]), f"{name}_se": float(se[at, layer])}
        fields[f"{name}_groups"] = estimates[at, layer].tolist()
    if layer >= BLOCKS:
        fields |= dict.fromkeys(("linearity", "linearity_se", "linearity_groups", "linearity_residual"))
    fields |= {"id_gride_k": [1, 2, 4, 8, 16]}
    fields["id_gride"] = [20.0, 20.0, fields.pop("id_gride_4"), 20.0, fields.pop("id_gride_16")]
    fields["id_gride_se"] = [0.1, 0.1, fields.pop("id_gride_4_se"), 0.1, fields.pop("id_gride_16_se")]
    return finding_rows.row(**(fields | dict(changes)))


def frame(*histories: list[dict[str, Any]]) -> pl.DataFrame:
    return finding_rows.frame(row for rows in histories for row in rows)
