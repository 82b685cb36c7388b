"""Rules that turn the rows of each finding into its brief form: a verdict, an effect and a short sentence per line."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.analysis import brief_sentences as sentences
from pipeline.analysis import (
    compression_valley,
    convergence,
    depth,
    explosions,
    isotropy,
    linearity,
    massive,
    matched,
    model_convergence,
    one_shape,
    onset,
    peak_overlap,
    phases,
    random_baselines,
    rearrangement,
    settling,
    settling_sentences,
    sinks,
    trends,
)
from pipeline.analysis.brief_sentences import Row, Words
from pipeline.analysis.claims import CONTRADICTS, SUPPORTS
from pipeline.analysis.similarities import MEASURES


class BriefRule(NamedTuple):
    """Rule for the line of one history on one text. Each function takes one row and returns a text."""

    measure: str
    """Meaning of the effect."""
    effect: Words
    """Function that formats the effect of a row."""
    sentence: Words
    """Function that returns a short sentence on a row."""
    part: Words | None = None
    """Function that names a row, for findings with several rows per history; None if a history has only one row."""
    order: tuple[str, ...] = ()
    """Names that `part` returns, in the order in which the rows are shown; the main row comes first."""
    claim: str = ""
    """Published claim that the finding bears on; empty if there is none."""
    level: float = 0.95
    """Coverage of the interval of the effect."""


def describe_rows(rule: BriefRule, rows: Sequence[Row]) -> tuple[str, str, str]:
    """Return the verdict, the effect and the sentence of the line that these rows of one history share.

    If the rows have different verdicts, all verdicts are listed, each after the name of its row. Effect and sentence
    are those of the first row, in the order of `rule.order`, that has an effect.
    """
    part = rule.part
    if part is None:
        return rows[0]["verdict"], rule.effect(rows[0]), rule.sentence(rows[0]) + _claim(rows[0])
    ranks = {name: rank for rank, name in enumerate(rule.order)}
    ordered = sorted(rows, key=lambda row: ranks.get(part(row), len(ranks)))
    verdicts = [row["verdict"] for row in ordered]
    named = ", ".join(f"{part(row)} {row['verdict']}" for row in ordered)
    main = next((row for row in ordered if rule.effect(row) != sentences.UNKNOWN), ordered[0])
    verdict, sentence = verdicts[0] if len({*verdicts}) == 1 else named, rule.sentence(main)
    return verdict, rule.effect(main), f"{part(main)}: {sentence}{_claim(main)}"


def _claim(row: Row) -> str:
    """Return the row's answer to the published claim, to be appended to its sentence.

    Empty if the finding has no claim or leaves it undecided.
    """
    claim = row.get("claim")
    return f"; {claim} the claim" if claim in (SUPPORTS, CONTRADICTS) else ""


def count_rows(rule: BriefRule, rows: Sequence[Row]) -> tuple[str, str, str]:
    """Return the counts of the verdicts of many similar rows, and the effect and the sentence of one of these rows.

    The row is the one with the smallest share of equal verdicts (`same_verdict`), or the first if the finding has no
    such column.
    """
    counts = Counter(row["verdict"] for row in rows)
    verdict = ", ".join(f"{verdict} {n} of {len(rows)}" for verdict, n in counts.most_common())
    least = min(rows, key=lambda row: row.get("same_verdict") or 0.0)
    return verdict, rule.effect(least), rule.sentence(least)


METRICS = ("anisotropy", "anisotropy_no_sink")
CONCLUSIONS = ("dome", "dome_no_sink", "phases", "peak_step", "depth")
CONTROLS = ("training types", "training gaussian", "depth types", "depth gaussian")
RULES: dict[str, BriefRule] = {
    "dome": BriefRule(
        "height of the peak above the higher end of the profile",
        sentences.interval("height", ".3f"),
        sentences.dome,
        claim="decoders have a dome, encoders have none",
    ),
    "matched": BriefRule(
        "anisotropy of the middle third, decoder minus encoder",
        sentences.interval("middle_difference", "+.3f"),
        sentences.matched,
        claim=matched.CLAIM,
    ),
    "convergence": BriefRule(
        "change of the profile per e-fold of training, in the last doubling",
        sentences.interval("late", ".3f"),
        sentences.convergence,
        claim=convergence.CLAIM,
    ),
    "one_shape": BriefRule(
        "change of the mean distance between decoders, late minus early",
        sentences.interval("change", "+.3f"),
        sentences.one_shape,
        sentences.column("metric"),
        METRICS,
        one_shape.CLAIM,
    ),
    "depth": BriefRule(
        "height of the peak above both sides", sentences.interval("height", ".0%"), sentences.depth, claim=depth.CLAIM
    ),
    "phases": BriefRule(
        "height of the peak over training above both sides",
        sentences.interval("height", ".0%"),
        sentences.phases,
        claim=phases.CLAIM,
    ),
    "estimators": BriefRule(
        "height of the peak over training of the first estimator",
        sentences.interval("height", ".0%"),
        sentences.column("estimator"),
    ),
    "agreement": BriefRule(
        "share of layers in which the two least similar scales have the same verdict",
        sentences.percent("same_verdict"),
        sentences.agreement,
    ),
    "nulls": BriefRule(
        "effect on text minus effect on random tokens (heights; doublings of the step for peak_step)",
        sentences.interval("difference", "+.3f"),
        sentences.nulls,
        sentences.column("conclusion"),
        CONCLUSIONS,
        random_baselines.CLAIM,
    ),
    "controls": BriefRule(
        "share of the largest change of dimension that the control has too",
        sentences.interval("left", ".0%"),
        sentences.controls,
        sentences.column("over", "control"),
        CONTROLS,
        "neither clusters of equal tokens nor the covariance alone explain the change",
    ),
    "sinks": BriefRule(
        "share of mid-layer anisotropy that is left without sink tokens",
        sentences.interval("left", ".0%"),
        sentences.sinks,
        claim=sinks.CLAIM,
    ),
    "explosions": BriefRule(
        "correlation of dimension with a later loss",
        sentences.correlation,
        sentences.explosions,
        claim=explosions.CLAIM,
    ),
    "trends": BriefRule(
        "change from the first to the last checkpoint",
        sentences.trend_effect,
        sentences.trends,
        sentences.column("metric"),
        tuple(trends.TRENDS),
        trends.RISES,
    ),
    "linearity": BriefRule(
        "mean R^2 of the linear map to the next layer",
        sentences.interval("linearity", ".3f"),
        sentences.linearity,
        claim=linearity.CLAIM,
    ),
    "massive": BriefRule(
        "largest possible share of contexts with more than three tokens of outlying norm beside the first",
        sentences.interval("crowded", ".0%"),
        sentences.massive,
        claim=massive.CLAIM,
    ),
    "valley": BriefRule(
        "share by which RankMe is lower in blocks with a large sink",
        sentences.interval("drop", ".0%"),
        sentences.valley,
        claim=compression_valley.CLAIM,
    ),
    "isotropy": BriefRule(
        "mean cosine between tokens", sentences.interval("cosine", ".3f"), sentences.isotropy, claim=isotropy.CLAIM
    ),
    "onset": BriefRule(
        "rank correlation of the onset's depth with the loss",
        sentences.interval("correlation", ".2f"),
        sentences.onset,
        claim=onset.CLAIM,
    ),
    "similarity": BriefRule(
        "similarity of neighbouring blocks minus that of the first and the last",
        sentences.interval("fall", "+.3f"),
        sentences.similarity,
        sentences.column("measure"),
        MEASURES,
    ),
    "rearrangement": BriefRule(
        "overlap of neighbouring blocks minus that of the first and the last",
        sentences.interval("fall", "+.3f"),
        sentences.rearrangement,
        sentences.column("measure"),
        rearrangement.MEASURED,
        rearrangement.CLAIM,
    ),
    "settling": BriefRule(
        "doublings of training by which the last block settles later than the first",
        sentences.interval("slope", "+.2f"),
        sentences.settling,
        sentences.column("measure"),
        MEASURES,
        settling_sentences.CLAIM,
        settling.SLOPE_LEVEL,
    ),
    "model_convergence": BriefRule(
        "similarity between models, late minus early",
        sentences.interval("change", "+.3f"),
        sentences.model_convergence,
        sentences.column("measure"),
        MEASURES,
        model_convergence.CLAIM,
    ),
    "peak_overlap": BriefRule(
        "similarity of two models at their peaks of dimension minus that elsewhere",
        sentences.interval("gain", "+.3f"),
        sentences.peak_overlap,
        sentences.column("measure"),
        MEASURES,
        peak_overlap.CLAIM,
    ),
    "trust": BriefRule(
        "share of rows in doubt", sentences.percent("share"), sentences.trust, sentences.column("about")
    ),
}
COUNTED = ("estimators", "agreement")
"""Findings with many similar rows per history. A line states how many rows have each verdict (`count_rows`)."""
