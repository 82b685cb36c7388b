"""Answers of a finding to a published claim, and the phrases that findings share."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from pipeline.analysis.curves import NO_ERRORS

SUPPORTS, CONTRADICTS, UNDECIDED = "supports", "contradicts", "undecided"
"""Answers at 95 %: the claimed effect is significant, its absence or reversal is significant, or neither is."""


def decide(supports: pl.Expr, contradicts: pl.Expr) -> pl.Expr:
    """Return the answer; a condition that is null does not hold."""
    cases = pl.when(supports.fill_null(False)).then(pl.lit(SUPPORTS))
    return cases.when(contradicts.fill_null(False)).then(pl.lit(CONTRADICTS)).otherwise(pl.lit(UNDECIDED))


def name_side(low: pl.Expr, high: pl.Expr, bound: float, above: str, below: str) -> pl.Expr:
    """Return the verdict of an interval: `above` or `below` the bound, undecided, or no_errors without an interval."""
    cases = pl.when(low.is_null()).then(pl.lit(NO_ERRORS)).when(low > bound).then(pl.lit(above))
    return cases.when(high < bound).then(pl.lit(below)).otherwise(pl.lit(UNDECIDED))


def describe_claim(answer: str, claim: str) -> str:
    """Return the answer as a sentence, `The claim that CLAIM is supported.`; `claim` is a clause."""
    words = {SUPPORTS: "supported", CONTRADICTS: "contradicted", UNDECIDED: "neither supported nor contradicted"}
    return f"The claim that {claim} is {words[answer]}."


def describe_moves(row: Mapping[str, Any], place: str, form: str, change: str = ".0%") -> str:
    """List the main moves: `rises from step 0 to 64 by 120% (95 % 100% to 140%), then ...`."""
    parts = []
    for move in row["main"]:
        verb = "rises" if move["direction"] == "rise" else "falls"
        size = f"{move['size']:+{change}} (95 % {move['size_low']:+{change}} to {move['size_high']:+{change}})"
        parts.append(f"{verb} from {place} {move['first']:{form}} to {move['last']:{form}} by {size}")
    return ", then ".join(parts)


def describe_left_out(places: Sequence[float], place: str, form: str) -> str:
    """Name the points of a curve that have no value or no error; empty if there are none."""
    if not places:
        return ""
    shown = ", ".join(f"{each:{form}}" for each in places[:5]) + (" ..." if len(places) > 5 else "")
    return f" Left out for lack of a value or an error: {place} {shown}."


def describe_pairing(row: Mapping[str, Any]) -> str:
    """State that errors are unpaired; empty for paired errors and for rows without errors."""
    unpaired = row["status"] == "judged" and not row["paired"]
    return " Errors are unpaired: the rows have no values per group or do not share contexts." if unpaired else ""
