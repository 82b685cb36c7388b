"""Brief form of findings: one line per history and text, with verdict, effect, its 95 % interval and a short sentence.

The full sentences, all layers and the rows without a verdict stay in the frames of `pipeline.analysis`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from pipeline.analysis.brief_rules import COUNTED, RULES, Row, count_rows, describe_rows
from pipeline.analysis.frames import NAME_SEPARATOR
from pipeline.analysis.trust import SOUND, WORST_FIRST

KEYS = ("model", "decoder", "other_model", "kind", "stage", "run", "corpus", "null", "recipe", "layer")
"""Columns whose values together identify a line. A finding has only some of these columns."""
NO_VERDICTS = (
    "too_few",
    "no_errors",
    "no_ends",
    "no_loss",
    "no_match",
    "no_control",
    "no_change",
    "no_peak",
    "unknown",
)
"""Verdicts that leave the question of a finding unanswered, because points, errors or values are missing."""
HISTORY_PARTS = ("stage", "run")


class BriefLine(NamedTuple):
    """Answer of a finding about one history on one text."""

    history: str
    """Names of the model, its stage and its run. A pair is `ENCODER, DECODER` or `MODEL, OTHER_MODEL`. Empty for a
    comparison of all models."""
    kind: str
    text: str
    """Name of the corpus, followed by that of the recipe if the finding has rows of several recipes."""
    layer: int | None
    """Index of the layer; None for a line about the whole model."""
    verdict: str
    effect: str
    """Effect with its interval, as a text."""
    sentence: str


class Brief(NamedTuple):
    """Brief form of one finding."""

    measure: str
    """Meaning of the effect."""
    claim: str
    """Published claim that the lines support or contradict; empty if there is none."""
    lines: list[BriefLine]
    left_out: dict[str, int]
    """Number of histories that have no line, by the verdict that is the reason."""
    level: float = 0.95
    """Coverage of the intervals of the effects."""


def summarize_finding(name: str, found: pl.DataFrame, layers: bool = False) -> Brief:
    """Summarize the frame of a finding as lines, one per history and text.

    A history whose verdicts are all in NO_VERDICTS gets no line and is counted in `left_out`. In the finding `trust`,
    so is a history without a doubt.

    Args:
        name: name of the finding.
        found: frame of the finding.
        layers: add one line per layer, if the finding has a column `layer`.
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
    """Yield the rows of each line as a list of dictionaries: those with equal values of KEYS, sorted by KEYS."""
    keys = [name for name in KEYS if name in found.columns]
    ordered = found.sort(keys, maintain_order=True, nulls_last=True) if keys else found
    for part in ordered.partition_by(keys, maintain_order=True):
        yield part.to_dicts()


def _make_line(name: str, rows: Sequence[Row], several_recipes: bool) -> BriefLine:
    first = rows[0]
    models = [first[key] for key in ("model", "decoder", "other_model") if first.get(key)]
    parts = [first[key] for key in HISTORY_PARTS if first.get(key)]
    text = first["corpus"] + (f" {first['recipe']}" if several_recipes else "")
    history = NAME_SEPARATOR.join([", ".join(models), *parts])
    described = (count_rows if name in COUNTED else describe_rows)(RULES[name], rows)
    return BriefLine(history, first.get("kind") or "", text, first.get("layer"), *described)


def _trust_rank(line: BriefLine) -> int:
    return min(rank for rank, word in enumerate(WORST_FIRST) if word in line.verdict)
