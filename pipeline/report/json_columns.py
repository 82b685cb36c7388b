"""A frame as JSON by columns: words once, numbers short, safe inside a script element."""

import json
from typing import Any

import polars as pl
import polars.selectors as cs

DIGITS, DIGITS_OF_ERRORS = 5, 3
"""Significant digits of values and of their standard errors."""


def to_json_columns(frame: pl.DataFrame) -> dict[str, Any]:
    """`rows`, and of each column its values, or its distinct `words` and where each row's stands `at`."""
    short = frame.with_columns(
        (cs.float() - cs.ends_with("_se")).round_sig_figs(DIGITS),
        (cs.float() & cs.ends_with("_se")).round_sig_figs(DIGITS_OF_ERRORS),
    )
    return {"rows": frame.height, "columns": {column.name: _column(column) for column in short.iter_columns()}}


def to_script_json(value: Any) -> str:
    """JSON that no HTML parser takes for the end of its script element, nor for its own markup."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _column(column: pl.Series) -> list[Any] | dict[str, Any]:
    words = column.unique(maintain_order=True)
    plain = column.to_list()
    if 4 * words.len() > column.len():
        return plain
    place = {word: index for index, word in enumerate(words.to_list())}
    return {"words": words.to_list(), "at": [place[value] for value in plain]}
