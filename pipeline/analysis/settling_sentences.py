"""Verdicts of the finding `settling`, and its sentences."""

from typing import Any

from pipeline.analysis.checkpoint_similarity import name_left_out
from pipeline.analysis.claims import describe_claim
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import format_interval
from pipeline.analysis.similarities import NO_ERRORS_REASON

STILL, SETTLES, UNDECIDED_YET = "still", "settles", "undecided"
UNSETTLED, TRUNCATED = "unsettled", "truncated"
LOWER_FIRST, UPPER_FIRST, SAME_TIME = "lower_first", "upper_first", "together"
CLAIM = "lower layers settle first"


def describe_settling(row: dict[str, Any]) -> str:
    """Return the sentence of a row of the finding `settling`."""
    return _describe(row) + name_left_out(row["left_out"] if row["layer"] is None else ())


def _describe(row: dict[str, Any]) -> str:
    if row["verdict"] == TOO_FEW:
        return f"{row['checkpoints']} checkpoints, {row['tokens']} ordinary tokens or the number of blocks are too few."
    if row["layer"] is None:
        return _order_sentence(row)
    text = {
        STILL: "the similarity to its final state is above 95 % at the first checkpoint",
        SETTLES: "the similarity to its final state rises significantly",
        UNDECIDED_YET: "the rise of the similarity to its final state is within error or bound",
        NO_ERRORS: f"no errors: {NO_ERRORS_REASON}",
    }[row["verdict"]]
    types, control = "", row["start_types"]
    if control is not None:
        null = f"unrelated layers {row['start_types_null']:.3f}"
        types = f", {control:.3f} with one occurrence per token type ({null})"
    start = f"{row['measure']} of first and last checkpoint {format_interval(row, 'start')}{types}"
    null = f"unrelated layers have {row['start_null']:.3f}, p = {row['start_p']:.3f} by permutation"
    return f"Block {row['layer']}: {text}; {start} ({null}). It is 95 % of the way at step {row['settled_at']:,.0f}."


def _order_sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == NO_ERRORS:
        return f"The {row['checkpoints']} checkpoints have no errors: {NO_ERRORS_REASON}."
    text = {
        LOWER_FIRST: "Lower blocks settle significantly earlier than upper ones",
        UPPER_FIRST: "Upper blocks settle significantly earlier than lower ones",
        SAME_TIME: "The blocks settle together, within one doubling of training",
        UNSETTLED: "Some blocks are 95 % of the way only after the last but one checkpoint, so no order is judged",
        UNDECIDED_YET: "The order in which blocks settle is within error",
        TRUNCATED: f"No order is judged, since similarities of whole kernels may differ by up to {row['bound']:.3f}; "
        "a larger similarity.rank keeps more of the kernels",
    }[row["verdict"]]
    slope = f"{format_interval(row, 'slope', '+.2f', '98 %')} doublings of training from the first to the last block"
    return f"{text} ({row['measure']}): {slope}. {describe_claim(row['claim'], CLAIM)}"
