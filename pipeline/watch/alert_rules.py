"""Alert rules. A rule names a metric, layers and a bound, such as `id_mle@blocks>4` or `anisotropy@3-9<-5`.

The bound applies to the change from the run's own past, in standard errors. A rule such as `id_mle@blocks!population`
has no bound: it compares the run with the other runs of its size.
"""

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from pipeline.columns import all_columns
from pipeline.errors import UsageError
from pipeline.strict_model import suggest

BASELINE_WINDOW, MIN_BASELINE = 8, 4
"""Largest number of preceding checkpoints in the baseline, and the number below which no change is computed."""
RULE_PATTERN = re.compile(r"(?P<metric>\w+)(?:@(?P<layers>[\w-]+))?\s*(?P<sign>[<>])\s*(?P<bound>[+-]?\d+(?:\.\d+)?)")
POPULATION_SUFFIX = "!population"
MAD_TO_SD = 1.4826
MetricRow = Mapping[str, Any]


class LayerSelection(NamedTuple):
    """Selected layers: every block (`blocks`), every hidden state (`all`), one layer (`5`) or a range (`3-9`)."""

    text: str
    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> "LayerSelection":
        if text in ("blocks", "all"):
            return cls(text)
        if match := re.fullmatch(r"(\d+)(?:-(\d+))?", text):
            first, last = int(match[1]), int(match[2] or match[1])
            if first <= last:
                return cls(text, first, last)
        do = "Write blocks, all, a layer such as 5, or a range such as 3-9"
        raise UsageError(f"layers {text!r}", "not a selection of layers", do)

    def filter_rows(self, rows: Sequence[MetricRow]) -> list[MetricRow]:
        if self.first is None:
            return [row for row in rows if self.text == "all" or row["state"] == "block"]
        return [row for row in rows if self.first <= row["layer"] <= (self.last or self.first)]


class MetricMean(NamedTuple):
    """Mean of a metric over layers, with an upper bound of its standard error."""

    mean: float
    error: float | None
    """Mean of the layers' standard errors; None if a layer has none. The mean of the metric cannot have a larger error,
    however the layers are correlated."""


class AlertRule(NamedTuple):
    """Rule that alerts if a metric's change, in standard errors, is above a positive bound or below a negative one."""

    metric: str
    layers: LayerSelection
    bound: float
    population: bool = False
    """True if the rule compares the run with the other runs of its size; such a rule has no bound."""

    @classmethod
    def parse(cls, text: str) -> "AlertRule":
        if text.strip().endswith(POPULATION_SUFFIX):
            metric, _, layers = text.strip().removesuffix(POPULATION_SUFFIX).partition("@")
            return cls(require_metric_with_error(metric), LayerSelection.parse(layers or "blocks"), 0.0, True)
        match = RULE_PATTERN.fullmatch(text.strip())
        bound = float(match["bound"]) if match else 0.0
        if match is None or (bound > 0) != (match["sign"] == ">") or not bound:
            do = (
                "Write METRIC[@LAYERS]>ERRORS or METRIC[@LAYERS]<-ERRORS, such as id_mle@blocks>4, or METRIC!population"
            )
            raise UsageError(f"alert {text!r}", "invalid rule", do)
        return cls(require_metric_with_error(match["metric"]), LayerSelection.parse(match["layers"] or "blocks"), bound)

    def __str__(self) -> str:
        if self.population:
            return f"{self.metric}@{self.layers.text}{POPULATION_SUFFIX}"
        return f"{self.metric}@{self.layers.text}{'>' if self.bound > 0 else '<'}{self.bound:g}"

    def fires(self, change: float | None) -> bool:
        return (
            change is not None
            and not self.population
            and (change > self.bound if self.bound > 0 else change < self.bound)
        )


def require_metric_with_error(name: str) -> str:
    """Return `name` if it is a column with a standard error; raise UsageError for any other."""
    columns = {column.name for column in all_columns()}
    with_error = sorted(column for column in columns if f"{column}_se" in columns)
    if name not in with_error:
        found = f"not a metric with a standard error{suggest(name, with_error)}"
        raise UsageError(f"metric {name!r}", found, "Use a metric that has a column NAME_se")
    return name


def mean_over_layers(metric: str, layers: LayerSelection, rows: Sequence[MetricRow]) -> MetricMean | None:
    """Average a metric over the selected rows of one checkpoint; None if no row is selected or a value is null."""
    chosen = [(row[metric], row[f"{metric}_se"]) for row in layers.filter_rows(rows)]
    if not chosen or any(value is None for value, _ in chosen):
        return None
    errors = [error for _, error in chosen if error is not None]
    error = sum(errors) / len(errors) if len(errors) == len(chosen) else None
    return MetricMean(sum(value for value, _ in chosen) / len(chosen), error)


def standardized_change(now: MetricMean | None, before: Sequence[MetricMean | None]) -> float | None:
    """Return the change from the median of the baseline, in units of the standard error or the baseline's spread.

    The baseline is the last BASELINE_WINDOW entries of `before`, without those that are None. The larger of the two
    units is used: a metric that moves throughout training has a wide baseline, so only an unusual change counts.
    Return None if `now` is None, if the baseline has fewer than MIN_BASELINE values, or if both units are zero.

    Args:
        now: value at the checkpoint to judge.
        before: values at the preceding checkpoints, oldest first; None where the metric is not known.
    """
    past = [value.mean for value in before[-BASELINE_WINDOW:] if value is not None]
    if now is None or len(past) < MIN_BASELINE:
        return None
    center = median(past)
    unit = max(now.error or 0.0, MAD_TO_SD * median(abs(value - center) for value in past))
    return (now.mean - center) / unit if unit else None
