"""Columns and flags of the lake as data: names, types, units, meanings, value ranges, and the nulls a flag explains."""

import csv
import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

METRIC_GROUPS = ("counts", "anisotropy", "spectrum", "norms", "dimension", "linearity", "loss")
"""Groups of columns that are measured."""
MU_PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Probabilities of the quantiles in the column `mu_quantiles`."""


class Column(NamedTuple):
    name: str
    type: str
    """Arrow type, or list<TYPE>."""
    group: str
    unit: str
    meaning: str


class Flag(NamedTuple):
    meaning: str
    groups: tuple[str, ...] = ()
    """Groups of columns whose null the flag explains; most caveats explain none."""
    columns: tuple[str, ...] = ()
    """Single columns whose null the flag explains."""


FLAGS: dict[str, Flag] = {
    "too_few_tokens": Flag(
        "fewer tokens than the metric needs, which is two for most metrics",
        ("anisotropy", "spectrum", "norms", "linearity"),
    ),
    "constant_layer": Flag(
        "all tokens are equal within rounding", ("anisotropy", "spectrum", "linearity"), ("top_dims", "top_dims_share")
    ),
    "too_few_ordinary_tokens": Flag(
        "tokens that are not sinks: fewer than two, or all equal", (), ("anisotropy_no_sink", "anisotropy_no_sink_se")
    ),
    "constant_without_a_group": Flag(
        "all tokens are equal once one group is left out", (), ("anisotropy_se", "anisotropy_no_sink_se")
    ),
    "alpha_range": Flag(
        "too few eigenvalues above the noise floor for a fit", (), ("alpha", "alpha_r2", "alpha_lo", "alpha_hi")
    ),
    "spectrum_floor": Flag("eigenvalues below the noise floor are left out"),
    "too_few_points": Flag(
        "no group has enough distinct points",
        ("dimension",),
        ("same_context_share", "same_token_share", "noise_ratio"),
    ),
    "group_too_small": Flag(
        "groups with fewer than 100 distinct points are left out",
        (),
        (
            *("id_twonn_se", "id_mle_se", "id_mle_c50_se", "id_mle_c90_se", "id_gride_se"),
            *("id_twonn_gaussian_se", "id_mle_gaussian_se"),
        ),
    ),
    "too_few_without_copies": Flag("too few of the first points have no exact copy", (), ("id_authors",)),
    "few_points": Flag("a group has fewer than 500 points"),
    "tied_distances": Flag("groups with tied distances are left out", ("dimension",)),
    "unresolved_points": Flag("points without certified neighbours are left out of every estimate"),
    "quantised": Flag("rounding of the activations is visible in the nearest distances"),
    "no_contexts": Flag("the points have no context ids", (), ("same_context_share",)),
    "no_token_ids": Flag("the points have no token ids", (), ("same_token_share",)),
    "nonfinite_rows": Flag("rows with NaN or infinity in this or the next layer are left out", ("linearity",)),
    "next_layer_constant": Flag("the next layer does not vary", ("linearity",)),
    "width_changes": Flag("the next layer has another width", (), ("linearity_residual",)),
    "no_increment": Flag("the next layer adds nothing to this layer", (), ("linearity_residual",)),
    "no_lm_head": Flag("the model has no language-model head", ("loss",)),
    "no_own_loss": Flag("either half of an encoder-decoder has no loss of its own", ("loss",)),
    "no_mask_token": Flag("the tokenizer has no mask token", ("loss",)),
    "nothing_to_predict": Flag("no context has a second token", ("loss",)),
    "nonfinite_loss": Flag("the loss of the model is NaN or infinite", ("loss",)),
    "unexpected_keys": Flag("the weight files have tensors that the model does not use; `:NAME` gives the first three"),
    "shorter_context": Flag("contexts are cut to the maximum number of positions of the model"),
    "smaller_corpus": Flag("the corpus has less text than the recipe asks for"),
    "tokenizer_round_trip": Flag("decoding the tokens does not reproduce the text"),
    "not_measured": Flag("placeholder row of a cell without measurements, as in a rehearsed sweep", METRIC_GROUPS),
}
"""Every word that the column `flags` may contain, up to its colon."""


class ValueRange(NamedTuple):
    low: float
    high: float = math.inf


_ROUNDING = 1e-6
"""Rounding by which a ratio may exceed its bounds."""
_NON_NEGATIVE, _SHARE = ValueRange(0), ValueRange(-_ROUNDING, 1 + _ROUNDING)
RANGE_BY_UNIT: dict[str, ValueRange] = {
    "0..1": _SHARE,
    "-1..1": ValueRange(-1 - _ROUNDING, 1 + _ROUNDING),
    "dims": ValueRange(math.ulp(0.0)),
    **dict.fromkeys(("rank", "neighbours"), ValueRange(1)),
    **dict.fromkeys(("parameters", "layers", "tokens", "contexts", "points", "steps", "bytes"), _NON_NEGATIVE),
    **dict.fromkeys(("act", "act^2", "nats/token", "s", "MiB"), _NON_NEGATIVE),
}
RANGE_BY_COLUMN: dict[str, ValueRange] = {
    **dict.fromkeys(("layer", "top_dims", "noise_ratio"), _NON_NEGATIVE),
    **dict.fromkeys(("mu_quantiles", "attempt", "algorithm", "schema_version"), ValueRange(1)),
}
UNBOUNDED_COLUMNS = {"seed", "alpha"}
"""Numeric columns that may contain any finite value."""


@cache
def read_csv_bytes() -> bytes:
    """Return the bytes of columns.csv."""
    return (files("pipeline") / "columns.csv").read_bytes()


@cache
def all_columns() -> tuple[Column, ...]:
    """Return every column in file order."""
    return tuple(Column(**row) for row in csv.DictReader(read_csv_bytes().decode().splitlines()))


@cache
def column_names(*groups: str) -> tuple[str, ...]:
    """Return the column names of the given groups, or of all groups."""
    return tuple(c.name for c in all_columns() if not groups or c.group in groups)


def column_range(column: Column) -> ValueRange | None:
    """Return the inclusive bounds of a column's values; None for text, timestamps and UNBOUNDED_COLUMNS."""
    if column.name.endswith("_se"):
        return _NON_NEGATIVE
    return RANGE_BY_COLUMN.get(column.name) or RANGE_BY_UNIT.get(column.unit)


def explained_columns(flags: Iterable[str]) -> frozenset[str]:
    """Return the names of the columns whose null the given flags explain."""
    known = [FLAGS[word] for flag in flags if (word := flag.partition(":")[0]) in FLAGS]
    groups = {group for flag in known for group in flag.groups}
    return frozenset(column for flag in known for column in flag.columns) | {
        column.name for column in all_columns() if column.group in groups
    }


def is_null_by_definition(name: str, depth: float) -> bool:
    """Return True if a null metric at this depth needs no flag.

    A standard error needs two groups, the surrogate is optional in the recipe, and no layer follows the last one.
    """
    return name.endswith(("_se", "_gaussian")) or (name in column_names("linearity") and depth == 1)
