"""Check that two sides of a comparison have rows that were measured alike, and restriction to these rows."""

from collections.abc import Sequence
from typing import NoReturn

import polars as pl

from pipeline.analysis.sides import Side
from pipeline.errors import UsageError

CHECKPOINTS, HISTORIES, CORPORA = "checkpoints", "histories", "corpora"
DEPTH_DIGITS = 6
MEASURED_ALIKE = ("kind", "recipe", "recipe_fingerprint", "algorithm")
"""Columns that are equal in two rows that are compared, whatever is compared."""
MAX_LISTED = 4
"""Maximum number of values that a refusal lists per side."""
WORDS = {
    "kind": "the kinds of layer stack differ",
    "recipe": "the recipes differ",
    "recipe_fingerprint": "the recipes have the same name and different fields",
    "algorithm": "the versions of the algorithms differ",
    "corpus": "the corpora differ",
    "step": "the histories have no step in common",
}
NAMES = {
    **{"kind": "kind of layer stack", "recipe": "recipe", "recipe_fingerprint": "fields of the recipe"},
    **{"algorithm": "version of the algorithms", "corpus": "corpus", "step": "step"},
}
MEASURE = "Measure both with one sweep: shapelake run SWEEP"
HINTS = {
    "kind": "Compare stacks of one kind",
    "recipe": MEASURE,
    "recipe_fingerprint": MEASURE,
    "algorithm": "Measure the older one again: shapelake run SWEEP",
    "corpus": "Measure both on one text, or compare one model on two corpora: --corpus C,C2",
    "step": "Name two revisions: MODEL@REVISION",
}


def require_comparable(of: str, sides: Sequence[Side], parts: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Restrict each side to the rows whose kind, recipe and algorithm also occur together on the other side.

    The same holds for the corpus, unless corpora are compared, and for the step, if histories are compared.

    Raises:
        UsageError: the sides have no kind, recipe, algorithm, corpus or step in common, or no combination of them. The
            message names the first column without a common value, or else the first combination.
    """
    first, second = (part.with_columns(stack="kind") for part in parts)
    if not {*first["kind"]} & {*second["kind"]} and first["kind"].n_unique() == second["kind"].n_unique() == 1:
        stacks = pl.lit(f"{first['kind'][0]}, {second['kind'][0]}")  # an encoder and a decoder have one stack each
        first, second = (part.with_columns(kind=stacks) for part in (first, second))
    names = compared_columns(of)
    for at in range(len(names)):
        if _share(first, second, names[: at + 1]).is_empty():
            _refuse(sides, _find_missing(first, second, names[: at + 1]), (first, second))
    both = [_share(first, second, names), _share(second, first, names)]
    return [part.with_columns(_depth=pl.col("depth").round(DEPTH_DIGITS)) for part in both]


def compared_columns(of: str) -> list[str]:
    """Return the columns that are equal in two rows that are compared with each other."""
    return [*MEASURED_ALIKE, *(() if of == CORPORA else ("corpus",)), *(("step",) if of == HISTORIES else ())]


def _share(part: pl.DataFrame, other: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return the rows of `part` whose values of `names` occur together in a row of `other`."""
    return part.join(other, on=names, how="semi", nulls_equal=True)


def _find_missing(first: pl.DataFrame, second: pl.DataFrame, names: list[str]) -> list[str]:
    """Return the fewest columns, the last of `names` among them, of which no combination is on both sides."""
    *before, last = names
    smallest = [[last], *([one, last] for one in before)]
    return next((few for few in smallest if _share(first, second, few).is_empty()), names)


def _refuse(sides: Sequence[Side], names: list[str], parts: Sequence[pl.DataFrame]) -> NoReturn:
    """Raise the error that the sides have no value of this column or, of several columns, no combination in common."""
    have = " against ".join(_list_combinations(part, names) for part in parts)
    together = f"no combination of {' and '.join(NAMES[name] for name in names)} is on both sides"
    found = f"{WORDS[names[0]] if len(names) == 1 else together}: {have}"
    raise UsageError(f"compare {sides[0]} and {sides[1]}", found, HINTS[names[-1]])


def _list_combinations(part: pl.DataFrame, names: list[str]) -> str:
    """List the values of the last column for each combination of the others: `text:book 0, 64; text:wiki 128`."""
    if len(names) == 1:
        return _list_values(part[names[0]])
    groups = part.select(names).unique().sort(names).partition_by(names[:-1], maintain_order=True)
    texts = [f"{' '.join(map(str, group.row(0)[:-1]))} {_list_values(group[names[-1]])}" for group in groups]
    return "; ".join(texts[:MAX_LISTED]) + ("; ..." if len(texts) > MAX_LISTED else "")


def _list_values(column: pl.Series) -> str:
    values = list(map(str, column.unique().sort()))
    return ", ".join(values[:MAX_LISTED]) + (" ..." if len(values) > MAX_LISTED else "")
