"""Isotropy of the final hidden state: the mean cosine between tokens (Machina & Mercer 2024)."""

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
    select_last_states,
    select_newest_rows,
    t_quantile,
)
from pipeline.analysis.group_errors import add_errors

ISOTROPIC_BELOW = 0.1
"""Mean cosine between tokens below which a state counts as isotropic; anisotropic states have 0.3 to 0.99."""
ISOTROPIC, ANISOTROPIC = "isotropic", "anisotropic"
CLAIM = "the final hidden state is isotropic"


def compute_isotropy(lake: LakeOrFrame) -> pl.DataFrame:
    """Compute the mean cosine between tokens of the last hidden state, at the newest checkpoint of each history.

    The last hidden state is that after the final norm or, if the model has no final norm, that after the last block.

    Columns, one row per history:

    - the keys of a history, `revision`, `step`
    - `verdict`:
        - `isotropic`: the mean cosine is below 0.1 (95 %).
        - `anisotropic`: the mean cosine is above 0.1 (95 %).
        - `undecided`: its interval contains 0.1.
        - `no_errors`: it has no standard error.
    - `claim` (the state is isotropic): `supports`, `contradicts` or `undecided`
    - `cosine`, `cosine_low`, `cosine_high`: mean cosine with its 95 % interval by Student's t
    - `anisotropy`: anisotropy of the same state
    - `layer_read`, `state`: index of the layer, and its kind of state (`final_norm` or `block`)
    - `n_params`: number of parameters of the model
    - `rows`: 1, the number of rows of the lake that were read
    - `because`: the result in two sentences
    """
    last = select_last_states(select_newest_rows(load_layer_rows(lake)))
    last = add_errors(last.filter(pl.col("cosine_mean").is_not_null()), "cosine_mean")
    half = t_quantile(pl.col("df") + 1) * pl.col("se")
    found = last.with_columns(
        layer_read="layer", cosine="value", cosine_low=pl.col("value") - half, cosine_high=pl.col("value") + half
    )
    low, high = pl.col("cosine_low"), pl.col("cosine_high")
    words = name_side(low, high, ISOTROPIC_BELOW, ANISOTROPIC, ISOTROPIC)
    found = found.with_columns(
        verdict=words, claim=decide(high < ISOTROPIC_BELOW, low > ISOTROPIC_BELOW), rows=pl.lit(1, pl.UInt32)
    )
    by = [*HISTORY_COLUMNS, *LABEL_COLUMNS]
    kept = ["verdict", "claim", "cosine", "cosine_low", "cosine_high", "anisotropy", "layer_read", "state", "n_params"]
    return add_because_column(found.select(*by, *kept, "rows").sort(by), _sentence)


def _sentence(row: dict[str, Any]) -> str:
    place = "after the final norm" if row["state"] == "final_norm" else f"of the last block, layer {row['layer_read']},"
    text = f"The mean cosine between tokens {place} is {format_interval(row, 'cosine')}"
    return f"{text}. {describe_claim(row['claim'], CLAIM)}"
