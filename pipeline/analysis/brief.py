"""Findings in one line per history and text: verdict, effect with its 95 % interval, one short sentence.

The full sentences, all layers and the rows without a verdict stay in the frames of `pipeline.analysis`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from pipeline.analysis.brief_rules import COUNTED, RULES, Row, count_rows, describe_rows
from pipeline.analysis.trust import SOUND, WORST_FIRST

KEYS = ("model", "decoder", "other_model", "kind", "stage", "run", "corpus", "null", "recipe", "layer")
"""Columns that identify a line; a finding has some of them."""
NO_VERDICTS = ("too_few", "no_errors", "no_ends", "no_loss", "no_match", "no_control", "no_change", "unknown")
"""Verdicts that answer nothing, because points, errors or values are missing."""
HISTORY_PARTS = ("stage", "run")


class BriefLine(NamedTuple):
    """Answer of a finding about one history on one text."""

    history: str
    """Model with its stage and run, `ENCODER, DECODER` for a pair; empty for a comparison of all models."""
    kind: str
    text: str
    """Corpus, and the recipe if the finding has several."""
    layer: int | None
    """Null: the whole model."""
    verdict: str
    effect: str
    sentence: str


class Brief(NamedTuple):
    """Lines of a finding, and the number of histories without a line by reason."""

    measure: str
    """Meaning of the effect."""
    claim: str
    """Published claim that the lines support or contradict; empty if there is none."""
    lines: list[BriefLine]
    left_out: dict[str, int]
    level: float = 0.95
    """Coverage of the intervals of the effects."""


def summarize_finding(name: str, found: pl.DataFrame, layers: bool = False) -> Brief:
    """Summarize a finding: histories without a verdict are counted and get no line, and so are sound ones in `trust`.

    Args:
        layers: add one line per layer, for findings with a column `layer`.
    """
    if "layer" in found.columns and not layers:
        found = found.filter(pl.col("layer").is_null())
    if name == "trust":
        found = found.sort(pl.col("verdict").replace_strict({v: i for i, v in enumerate(WORST_FIRST)}))
    several = found["recipe"].n_unique() > 1
    lines, left_out = [], dict[str, int]()
    for rows in _group_rows(found):
        told = [row for row in rows if row["verdict"] not in (*NO_VERDICTS, SOUND)]
        if told:
            lines.append(_make_line(name, told, several))
        else:
            reason = rows[0]["verdict"]
            left_out[reason] = left_out.get(reason, 0) + 1
    ordered = sorted(lines, key=_trust_rank) if name == "trust" else lines
    return Brief(RULES[name].measure, RULES[name].claim, ordered, left_out, RULES[name].level)


def _group_rows(found: pl.DataFrame) -> Iterator[list[Row]]:
    """Yield the rows of each history, text and, if the finding has layers, layer; sorted by these keys."""
    keys = [name for name in KEYS if name in found.columns]
    ordered = found.sort(keys, maintain_order=True, nulls_last=True) if keys else found
    for part in ordered.partition_by(keys, maintain_order=True):
        yield part.to_dicts()


def _make_line(name: str, rows: Sequence[Row], several_recipes: bool) -> BriefLine:
    first = rows[0]
    models = [first[key] for key in ("model", "decoder", "other_model") if first.get(key)]
    parts = [first[key] for key in HISTORY_PARTS if first.get(key)]
    text = first["corpus"] + (f" {first['recipe']}" if several_recipes else "")
    history = " ".join([", ".join(models), *parts])
    described = (count_rows if name in COUNTED else describe_rows)(RULES[name], rows)
    return BriefLine(history, first.get("kind") or "", text, first.get("layer"), *described)


def _trust_rank(line: BriefLine) -> int:
    return min(rank for rank, word in enumerate(WORST_FIRST) if word in line.verdict)
