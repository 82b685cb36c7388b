"""The lake's columns and flags as data: names, types, units, meanings, and which flag explains which null."""

import csv
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

METRIC_GROUPS = ("counts", "anisotropy", "spectrum", "norms", "dimension", "linearity", "loss")
"""The groups of columns that are measured."""
MU_PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Where the column `mu_quantiles` takes its quantiles."""


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
    columns: tuple[str, ...] = ()
    """What it explains the null of: columns, and groups of them. Most caveats explain none."""


FLAGS: dict[str, Flag] = {
    "too_few_tokens": Flag(
        "fewer tokens than the number needs, mostly two", ("anisotropy", "spectrum", "norms", "linearity")
    ),
    "constant_layer": Flag(
        "the tokens do not differ", ("anisotropy", "spectrum", "linearity"), ("top_dims", "top_dims_share")
    ),
    "too_few_ordinary_tokens": Flag(
        "tokens that are no sinks: fewer than two, or equal", (), ("anisotropy_no_sink", "anisotropy_no_sink_se")
    ),
    "constant_without_a_group": Flag(
        "without one group the tokens do not differ", (), ("anisotropy_se", "anisotropy_no_sink_se")
    ),
    "alpha_range": Flag(
        "too few eigenvalues above the floor for a fit", (), ("alpha", "alpha_r2", "alpha_lo", "alpha_hi")
    ),
    "spectrum_floor": Flag("eigenvalues below the noise floor are left out"),
    "too_few_points": Flag(
        "no group has enough distinct points",
        ("dimension",),
        ("same_context_share", "same_token_share", "noise_ratio"),
    ),
    "group_too_small": Flag(
        "a group has fewer than 100 distinct points; it is left out",
        (),
        (
            *("id_twonn_se", "id_mle_se", "id_mle_c50_se", "id_mle_c90_se", "id_gride_se"),
            *("id_twonn_gaussian_se", "id_mle_gaussian_se"),
        ),
    ),
    "too_few_without_copies": Flag("too few of the first points have no exact copy", (), ("id_authors",)),
    "few_points": Flag("a group has fewer than 500 points"),
    "tied_distances": Flag("a group whose distances are tied is left out", ("dimension",)),
    "unresolved_points": Flag("neighbours that could not be certified; no estimate uses them"),
    "quantised": Flag("rounding of the activations is visible in the nearest distances"),
    "no_contexts": Flag("the points come without context ids", (), ("same_context_share",)),
    "no_token_ids": Flag("the points come without token ids", (), ("same_token_share",)),
    "nonfinite_rows": Flag("rows with NaN or infinity, left out here or in the following layer", ("linearity",)),
    "next_layer_constant": Flag("the following layer does not vary", ("linearity",)),
    "width_changes": Flag("the following layer has another width", (), ("linearity_residual",)),
    "no_increment": Flag("the following layer adds nothing", (), ("linearity_residual",)),
    "no_lm_head": Flag("the model has no head that predicts tokens", ("loss",)),
    "no_own_loss": Flag("a half of an encoder-decoder has no loss of its own", ("loss",)),
    "no_mask_token": Flag("the tokenizer has no mask token", ("loss",)),
    "nothing_to_predict": Flag("no context has a second token", ("loss",)),
    "nonfinite_loss": Flag("the model's loss is NaN or infinite", ("loss",)),
    "unexpected_keys": Flag("the file has weights that the model does not use; `:NAME` gives the first"),
    "shorter_context": Flag("contexts are cut to the model's positions"),
    "smaller_corpus": Flag("the corpus has less text than the recipe asks for"),
    "tokenizer_round_trip": Flag("decoding the tokens does not give the text back"),
    "not_measured": Flag("the row stands for a cell without its numbers, as in a rehearsal of a sweep", METRIC_GROUPS),
}
"""Every word that `flags` may hold, up to its colon."""


@cache
def read_csv_bytes() -> bytes:
    """The table itself, as CSV."""
    return (files("pipeline") / "columns.csv").read_bytes()


@cache
def all_columns() -> tuple[Column, ...]:
    """Every column in file order."""
    return tuple(Column(**row) for row in csv.DictReader(read_csv_bytes().decode().splitlines()))


@cache
def column_names(*groups: str) -> tuple[str, ...]:
    """Names of the columns of the groups given, or of all."""
    return tuple(c.name for c in all_columns() if not groups or c.group in groups)


def explained_columns(flags: Iterable[str]) -> frozenset[str]:
    """Names of the columns whose null these words explain."""
    known = [FLAGS[word] for flag in flags if (word := flag.partition(":")[0]) in FLAGS]
    groups = {group for flag in known for group in flag.groups}
    return frozenset(column for flag in known for column in flag.columns) | {
        column.name for column in all_columns() if column.group in groups
    }


def is_null_by_definition(name: str, depth: float) -> bool:
    """Whether a metric's null needs no word at this depth.

    A standard error takes two groups, a surrogate is a switch of the recipe, and no layer follows the last.
    """
    return name.endswith(("_se", "_gaussian")) or (name in column_names("linearity") and depth == 1)
