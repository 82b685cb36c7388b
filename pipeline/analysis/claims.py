"""Answers of findings to published claims, and phrases for the sentences of findings."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from pipeline.analysis.curves import NO_ERRORS

SUPPORTS, CONTRADICTS, UNDECIDED = "supports", "contradicts", "undecided"
"""Answers to a claim: its effect is significant (95 %), the absence or reversal of the effect is, or neither is."""


def decide(supports: pl.Expr, contradicts: pl.Expr) -> pl.Expr:
    """Return the expression of the answer to a claim from two conditions; a condition that is null counts as false."""
    cases = pl.when(supports.fill_null(False)).then(pl.lit(SUPPORTS))
    return cases.when(contradicts.fill_null(False)).then(pl.lit(CONTRADICTS)).otherwise(pl.lit(UNDECIDED))


def name_side(low: pl.Expr, high: pl.Expr, bound: float, above: str, below: str) -> pl.Expr:
    """Return the expression of a verdict from the limits of an interval and a bound.

    The verdict is the word `above` if the interval lies above the bound, the word `below` if it lies below it, and
    `undecided` if it contains it. It is `no_errors` where the limits are null.
    """
    cases = pl.when(low.is_null()).then(pl.lit(NO_ERRORS)).when(low > bound).then(pl.lit(above))
    return cases.when(high < bound).then(pl.lit(below)).otherwise(pl.lit(UNDECIDED))


def describe_claim(answer: str, claim: str) -> str:
    """Return the answer as a sentence, `The claim that CLAIM is supported.`; `claim` is a clause."""
    words = {SUPPORTS: "supported", CONTRADICTS: "contradicted", UNDECIDED: "neither supported nor contradicted"}
    return f"The claim that {claim} is {words[answer]}."


def describe_moves(row: Mapping[str, Any], place: str, form: str, change: str = ".0%") -> str:
    """Describe the main moves of a curve: `rises from step 0 to 64 by 120% (95 % 100% to 140%), then ...`.

    Args:
        row: row of a finding with the column `main`.
        place: word for the axis of the curve, `step` or `depth`.
        form: format of the points on this axis.
        change: format of the sizes of the moves.
    """
    parts = []
    for move in row["main"]:
        verb = "rises" if move["direction"] == "rise" else "falls"
        size = f"{move['size']:+{change}} (95 % {move['size_low']:+{change}} to {move['size_high']:+{change}})"
        parts.append(f"{verb} from {place} {move['first']:{form}} to {move['last']:{form}} by {size}")
    return ", then ".join(parts)


def describe_left_out(places: Sequence[float], place: str, form: str) -> str:
    """Return a sentence that names the points of a curve without a value or an error; empty if there are none."""
    if not places:
        return ""
    shown = ", ".join(f"{each:{form}}" for each in places[:5]) + (" ..." if len(places) > 5 else "")
    return f" Left out for lack of a value or an error: {place} {shown}."


def describe_pairing(row: Mapping[str, Any]) -> str:
    """Return a sentence which states that errors are unpaired; empty if they are paired or if there are none."""
    unpaired = row["status"] == "judged" and not row["paired"]
    return " Errors are unpaired: the rows have no values per group or do not share contexts." if unpaired else ""
