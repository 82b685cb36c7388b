"""Effect and short sentence of each finding, for its brief form."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    settling,
    sinks,
    trends,
)
from pipeline.analysis.claims import CONTRADICTS, SUPPORTS
from pipeline.analysis.similarities import MEASURES
from pipeline.analysis.trust import DOUBT_RULES

Row = dict[str, Any]
Words = Callable[[Row], str]
UNKNOWN = "-"


class BriefRule(NamedTuple):
    """Brief form of the rows of one history on one text; each function describes one row."""

    measure: str
    """Meaning of the effect."""
    effect: Words
    sentence: Words
    part: Words | None = None
    """Name of a row among several of one history; None if there is only one."""
    order: tuple[str, ...] = ()
    """Names of the rows, the main one first."""
    claim: str = ""
    """Published claim that the finding bears on; empty if there is none."""


def describe_rows(rule: BriefRule, rows: Sequence[Row]) -> tuple[str, str, str]:
    """Return verdict, effect and sentence. Of several rows, verdicts that differ are named by row.

    Effect and sentence are those of the first row with an effect, in the order of `rule.order`.
    """
    part = rule.part
    if part is None:
        return rows[0]["verdict"], rule.effect(rows[0]), rule.sentence(rows[0]) + _claim(rows[0])
    ranks = {name: rank for rank, name in enumerate(rule.order)}
    ordered = sorted(rows, key=lambda row: ranks.get(part(row), len(ranks)))
    verdicts = [row["verdict"] for row in ordered]
    named = ", ".join(f"{part(row)} {row['verdict']}" for row in ordered)
    main = next((row for row in ordered if rule.effect(row) != UNKNOWN), ordered[0])
    verdict, sentence = verdicts[0] if len({*verdicts}) == 1 else named, rule.sentence(main)
    return verdict, rule.effect(main), f"{part(main)}: {sentence}{_claim(main)}"


def _claim(row: Row) -> str:
    """The answer to the published claim, where the finding has one and decides it."""
    claim = row.get("claim")
    return f"; {claim} the claim" if claim in (SUPPORTS, CONTRADICTS) else ""


def count_rows(rule: BriefRule, rows: Sequence[Row]) -> tuple[str, str, str]:
    """Return verdict, effect and sentence of many alike rows: how many have each verdict, and the first row's words."""
    counts = Counter(row["verdict"] for row in rows)
    verdict = ", ".join(f"{verdict} {n} of {len(rows)}" for verdict, n in counts.most_common())
    least = min(rows, key=lambda row: row.get("same_verdict") or 0.0)
    return verdict, rule.effect(least), rule.sentence(least)


def _interval(name: str, form: str) -> Words:
    """Format a column with its 95 % interval: `0.412 (0.380 to 0.444)`."""

    def show(row: Row) -> str:
        value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
        if value is None:
            return UNKNOWN
        return f"{value:{form}}" + (f" ({low:{form}} to {high:{form}})" if low is not None else "")

    return show


def _dome(row: Row) -> str:
    place = "highest in no block" if row["depth"] is None else f"highest at depth {row['depth']:.2f}"
    return f"{place}; without sinks {row['no_sink_verdict'] or 'unknown'}, {_interval('no_sink_height', '.3f')(row)}"


def _matched(row: Row) -> str:
    sides = f"decoder {row['middle_decoder']:.3f}, encoder {row['middle_encoder']:.3f}"
    more = row["more_anisotropic"]
    return f"{f'the {more}' if more in ('decoder', 'encoder') else 'neither'} is more anisotropic there: {sides}"


def _convergence(row: Row) -> str:
    return f"largest distance to the last profile {_interval('distance', '.3f')(row)}"


def _one_shape(row: Row) -> str:
    return f"mean distance of {len(row['models'])} decoders: {row['early']:.3f} early, {row['late']:.3f} late"


def _votes(row: Row) -> str:
    return f"in {row['agreeing']} of {row['scales']} scales"


def _depth(row: Row) -> str:
    return f"{_votes(row)}; highest at depth {_interval('depth', '.2f')(row)}"


def _phases(row: Row) -> str:
    return f"{_votes(row)}; highest at step {_interval('peak_step', ',.0f')(row)}"


def _agreement(row: Row) -> str:
    return f"least alike: {row['estimator']} and {row['other']}, in {row['rows']} layers"


def _nulls(row: Row) -> str:
    return f"{row['on_text']} on text, {row['on_null']} on {row['null']}"


def _controls(row: Row) -> str:
    if row["change"] is None:
        return "no significant change of dimension"
    place = "step" if row["over"] == "training" else "depth"
    ends = (f"{row[end]:,.0f}" if place == "step" else f"{row[end]:.2f}" for end in ("first", "last"))
    return f"of the {row['change']:+.0%} change from {place} {' to '.join(ends)}"


def _sinks(row: Row) -> str:
    if row["anisotropy"] is None or row["anisotropy_no_sink"] is None:
        return "a middle block has no value"
    return f"of the middle blocks' anisotropy is left: {row['anisotropy_no_sink']:.3f} of {row['anisotropy']:.3f}"


def _explosions(row: Row) -> str:
    steps = ", ".join(f"{step:,}" for step in (row["nonfinite"] or row["events"])[:5]) or "no step"
    return f"{row['event']} at {steps}; p {row['p']:.3f} at lag {row['lag']}"


def _correlation(row: Row) -> str:
    return UNKNOWN if row["correlation"] is None else f"correlation {row['correlation']:.2f}"


def _trends(row: Row) -> str:
    return f"from step {row['first']:,} to {row['last']:,}"


def _trend_effect(row: Row) -> str:
    return _interval("change", "+.0%" if trends.TRENDS[row["metric"]].log else "+.3f")(row)


def _linearity(row: Row) -> str:
    return f"without the residual {'-' if row['gap'] is None else format(row['without_residual'], '.3f')}"


def _massive(row: Row) -> str:
    return f"largest {row['ratio']:,.0f} medians, layer {row['layer_of_largest']}; others per context " + (
        UNKNOWN if row["others"] is None else f"{row['others']:.2f}"
    )


def _valley(row: Row) -> str:
    return f"{row['large']} blocks with a large sink, {row['others']} without"


def _isotropy(row: Row) -> str:
    return f"layer {row['layer_read']}, {row['state'].replace('_', ' ')}"


def _onset(row: Row) -> str:
    return f"{len(row['models'])} decoders" + ("" if row["p"] is None else f", p {row['p']:.3f}")


def _similarity(row: Row) -> str:
    return f"ends {_interval('ends', '.3f')(row)}, neighbours {_interval('neighbours', '.3f')(row)}"


def _settling(row: Row) -> str:
    if row["layer"] is None:
        return f"{row['checkpoints']} checkpoints"
    return f"95 % of the way at step {row['settled_at']:,.0f}, from {_interval('start', '.3f')(row)}"


def _model_convergence(row: Row) -> str:
    return f"{len(row['models'])} models, {_interval('early', '.3f')(row)} early, {_interval('late', '.3f')(row)} late"


def _peak_overlap(row: Row) -> str:
    return f"{_interval('at_peak', '.3f')(row)} at the peaks, {_interval('elsewhere', '.3f')(row)} elsewhere"


def _trust(row: Row) -> str:
    return DOUBT_RULES[row["doubt"]].because


def _percent(name: str) -> Words:
    return lambda row: f"{row[name]:.0%}"


def _column(*names: str) -> Words:
    return lambda row: " ".join(str(row[name]) for name in names)


METRICS = ("anisotropy", "anisotropy_no_sink")
CONCLUSIONS = ("dome", "dome_no_sink", "phases", "peak_step", "depth")
CONTROLS = ("training types", "training gaussian", "depth types", "depth gaussian")
RULES: dict[str, BriefRule] = {
    "dome": BriefRule(
        "height of the peak above the higher end of the profile",
        _interval("height", ".3f"),
        _dome,
        claim="decoders have a dome, encoders have none",
    ),
    "matched": BriefRule(
        "anisotropy of the middle third, decoder minus encoder",
        _interval("middle_difference", "+.3f"),
        _matched,
        claim=matched.CLAIM,
    ),
    "convergence": BriefRule(
        "change of the profile per e-fold of training, in the last doubling",
        _interval("late", ".3f"),
        _convergence,
        claim=convergence.CLAIM,
    ),
    "one_shape": BriefRule(
        "change of the mean distance between decoders, late minus early",
        _interval("change", "+.3f"),
        _one_shape,
        _column("metric"),
        METRICS,
        one_shape.CLAIM,
    ),
    "depth": BriefRule("height of the peak above both sides", _interval("height", ".0%"), _depth, claim=depth.CLAIM),
    "phases": BriefRule(
        "height of the peak over training above both sides", _interval("height", ".0%"), _phases, claim=phases.CLAIM
    ),
    "estimators": BriefRule(
        "height of the peak over training of the first estimator", _interval("height", ".0%"), _column("estimator")
    ),
    "agreement": BriefRule(
        "share of layers with the same verdict, of the two scales that are least alike",
        _percent("same_verdict"),
        _agreement,
    ),
    "nulls": BriefRule(
        "effect on text minus effect on random tokens (heights; of peak_step doublings)",
        _interval("difference", "+.3f"),
        _nulls,
        _column("conclusion"),
        CONCLUSIONS,
        "the effect is the same on random tokens",
    ),
    "controls": BriefRule(
        "share of the largest change of dimension that the control has too",
        _interval("left", ".0%"),
        _controls,
        _column("over", "control"),
        CONTROLS,
        "the change is not one of the control, clusters of equal tokens or the covariance",
    ),
    "sinks": BriefRule(
        "share of mid-layer anisotropy that is left without sink tokens",
        _interval("left", ".0%"),
        _sinks,
        claim=sinks.CLAIM,
    ),
    "explosions": BriefRule(
        "correlation of dimension with a later loss", _correlation, _explosions, claim=explosions.CLAIM
    ),
    "trends": BriefRule(
        "change from the first to the last checkpoint",
        _trend_effect,
        _trends,
        _column("metric"),
        tuple(trends.TRENDS),
        trends.RISES,
    ),
    "linearity": BriefRule(
        "mean R^2 of the linear map to the next layer",
        _interval("linearity", ".3f"),
        _linearity,
        claim=linearity.CLAIM,
    ),
    "massive": BriefRule(
        "largest possible share of contexts with more than three tokens of outlying norm beside the first",
        _interval("crowded", ".0%"),
        _massive,
        claim=massive.CLAIM,
    ),
    "valley": BriefRule(
        "share by which RankMe is lower in blocks with a large sink",
        _interval("drop", ".0%"),
        _valley,
        claim=compression_valley.CLAIM,
    ),
    "isotropy": BriefRule("mean cosine between tokens", _interval("cosine", ".3f"), _isotropy, claim=isotropy.CLAIM),
    "onset": BriefRule(
        "rank correlation of the onset's depth with the loss",
        _interval("correlation", ".2f"),
        _onset,
        claim=onset.CLAIM,
    ),
    "similarity": BriefRule(
        "similarity of neighbouring blocks minus that of the first and the last",
        _interval("fall", "+.3f"),
        _similarity,
        _column("measure"),
        MEASURES,
    ),
    "settling": BriefRule(
        "doublings of training by which the last block settles later than the first",
        _interval("slope", "+.2f"),
        _settling,
        _column("measure"),
        MEASURES,
        settling.CLAIM,
    ),
    "model_convergence": BriefRule(
        "similarity between models, late minus early",
        _interval("change", "+.3f"),
        _model_convergence,
        _column("measure"),
        MEASURES,
        model_convergence.CLAIM,
    ),
    "peak_overlap": BriefRule(
        "similarity of two models at their peaks of dimension minus that elsewhere",
        _interval("gain", "+.3f"),
        _peak_overlap,
        _column("measure"),
        MEASURES,
        peak_overlap.CLAIM,
    ),
    "trust": BriefRule("share of rows in doubt", _percent("share"), _trust, _column("about")),
}
COUNTED = ("estimators", "agreement")
"""Findings with many similar rows per history; the brief form counts their verdicts."""
