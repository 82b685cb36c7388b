"""Functions that describe one row of a finding, for the brief form of findings.

A function with the name of a finding returns a short sentence on a row of that finding.
"""

from collections.abc import Callable
from typing import Any

from pipeline.analysis.trends import TRENDS
from pipeline.analysis.trust import DOUBT_RULES

Row = dict[str, Any]
Words = Callable[[Row], str]
UNKNOWN = "-"


def interval(name: str, form: str) -> Words:
    """Return a function that formats a column of a row with its interval, as in `0.412 (0.380 to 0.444)`.

    The function returns `-` for a null value, and no interval if its limits are null.
    """

    def show(row: Row) -> str:
        value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
        if value is None:
            return UNKNOWN
        return f"{value:{form}}" + (f" ({low:{form}} to {high:{form}})" if low is not None else "")

    return show


def dome(row: Row) -> str:
    place = "highest in no block" if row["depth"] is None else f"highest at depth {row['depth']:.2f}"
    return f"{place}; without sinks {row['no_sink_verdict'] or 'unknown'}, {interval('no_sink_height', '.3f')(row)}"


def matched(row: Row) -> str:
    sides = f"decoder {row['middle_decoder']:.3f}, encoder {row['middle_encoder']:.3f}"
    more = row["more_anisotropic"]
    name = f"the {more}" if more in ("decoder", "encoder") else "neither"
    return f"{name} is more anisotropic in the middle third: {sides}"


def convergence(row: Row) -> str:
    return f"largest distance to the last profile {interval('distance', '.3f')(row)}"


def one_shape(row: Row) -> str:
    return f"mean distance of {len(row['models'])} decoders: {row['early']:.3f} early, {row['late']:.3f} late"


def votes(row: Row) -> str:
    return f"in {row['agreeing']} of {row['scales']} scales"


def depth(row: Row) -> str:
    return f"{votes(row)}; highest at depth {interval('depth', '.2f')(row)}"


def phases(row: Row) -> str:
    return f"{votes(row)}; highest at step {interval('peak_step', ',.0f')(row)}"


def agreement(row: Row) -> str:
    return f"least alike: {row['estimator']} and {row['other']}, in {row['rows']} layers"


def nulls(row: Row) -> str:
    return f"{row['on_text']} on text, {row['on_null']} on {row['null']}"


def controls(row: Row) -> str:
    if row["change"] is None:
        return "no significant change of dimension"
    place = "step" if row["over"] == "training" else "depth"
    ends = (f"{row[end]:,.0f}" if place == "step" else f"{row[end]:.2f}" for end in ("first", "last"))
    return f"largest change {row['change']:+.0%}, from {place} {' to '.join(ends)}"


def sinks(row: Row) -> str:
    if row["anisotropy"] is None or row["anisotropy_no_sink"] is None:
        return "a middle block has no value"
    return f"middle blocks: anisotropy {row['anisotropy']:.3f}, without sink tokens {row['anisotropy_no_sink']:.3f}"


def explosions(row: Row) -> str:
    steps = ", ".join(f"{step:,}" for step in (row["nonfinite"] or row["events"])[:5])
    event = f"{row['event']} at {steps}" if steps else "no spike"
    return f"{event}; p {row['p']:.3f} at lag {row['lag']}"


def correlation(row: Row) -> str:
    return UNKNOWN if row["correlation"] is None else f"correlation {row['correlation']:.2f}"


def trends(row: Row) -> str:
    return f"from step {row['first']:,} to {row['last']:,}"


def trend_effect(row: Row) -> str:
    return interval("change", "+.0%" if TRENDS[row["metric"]].log else "+.3f")(row)


def linearity(row: Row) -> str:
    return f"without the residual stream {'-' if row['gap'] is None else format(row['without_residual'], '.3f')}"


def massive(row: Row) -> str:
    others = UNKNOWN if row["others"] is None else f"{row['others']:.2f}"
    largest = f"largest activation {row['ratio']:,.0f} medians, in layer {row['layer_of_largest']}"
    return f"{largest}; other outlying tokens per context {others}"


def valley(row: Row) -> str:
    return f"{row['large']} blocks with a large sink, {row['others']} without"


def isotropy(row: Row) -> str:
    return f"layer {row['layer_read']}, {row['state'].replace('_', ' ')}"


def onset(row: Row) -> str:
    return f"{len(row['models'])} decoders" + ("" if row["p"] is None else f", p {row['p']:.3f}")


def similarity(row: Row) -> str:
    return f"ends {interval('ends', '.3f')(row)}, neighbours {interval('neighbours', '.3f')(row)}"


def rearrangement(row: Row) -> str:
    return f"largest step {interval('largest', '.0%')(row)} of all, after block {row['largest_at']}"


def settling(row: Row) -> str:
    if row["layer"] is None:
        return f"{row['checkpoints']} checkpoints"
    start = f"similarity at the first checkpoint {interval('start', '.3f')(row)}"
    return f"95 % of the way at step {row['settled_at']:,.0f}; {start}"


def model_convergence(row: Row) -> str:
    return f"{len(row['models'])} models, {interval('early', '.3f')(row)} early, {interval('late', '.3f')(row)} late"


def peak_overlap(row: Row) -> str:
    return f"{interval('at_peak', '.3f')(row)} at the peaks, {interval('elsewhere', '.3f')(row)} elsewhere"


def trust(row: Row) -> str:
    return DOUBT_RULES[row["doubt"]].because


def percent(name: str) -> Words:
    return lambda row: f"{row[name]:.0%}"


def column(*names: str) -> Words:
    return lambda row: " ".join(str(row[name]) for name in names)
