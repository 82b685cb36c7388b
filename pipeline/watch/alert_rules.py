"""Alert rules: a metric, layers, and by how much it must have changed: `id_mle@blocks>4`, `anisotropy@3-9<-5`."""

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from pipeline.columns import all_columns
from pipeline.errors import UsageError
from pipeline.strict_model import suggest

BASELINE_WINDOW, MIN_BASELINE = 8, 4
"""Checkpoints before the newest that it is compared with, and how few of them are too few."""
RULE_PATTERN = re.compile(r"(?P<metric>\w+)(?:@(?P<layers>[\w-]+))?\s*(?P<sign>[<>])\s*(?P<bound>[+-]?\d+(?:\.\d+)?)")
MAD_TO_SD = 1.4826
MetricRow = Mapping[str, Any]


class LayerSelection(NamedTuple):
    """Which layers: every block (`blocks`), every state (`all`), one (`5`) or a range (`3-9`)."""

    text: str
    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> "LayerSelection":
        if text in ("blocks", "all"):
            return cls(text)
        if found := re.fullmatch(r"(\d+)(?:-(\d+))?", text):
            first, last = int(found[1]), int(found[2] or found[1])
            if first <= last:
                return cls(text, first, last)
        raise UsageError(f"layers {text!r}", "no layers", "Write blocks, all, a layer as 5, or a range as 3-9")

    def filter_rows(self, rows: Sequence[MetricRow]) -> list[MetricRow]:
        if self.first is None:
            return [row for row in rows if self.text == "all" or row["state"] == "block"]
        return [row for row in rows if self.first <= row["layer"] <= (self.last or self.first)]


class MetricMean(NamedTuple):
    """The mean of a metric over layers. They read the same contexts, so its error is at most the mean of theirs."""

    mean: float
    error: float | None


class AlertRule(NamedTuple):
    """An alert where the change of a metric passes a bound, in standard errors."""

    metric: str
    layers: LayerSelection
    bound: float

    @classmethod
    def parse(cls, text: str) -> "AlertRule":
        found = RULE_PATTERN.fullmatch(text.strip())
        bound = float(found["bound"]) if found else 0.0
        if found is None or (bound > 0) != (found["sign"] == ">") or not bound:
            raise UsageError(
                f"alert {text!r}", "no rule", "Write METRIC[@LAYERS]>ERRORS or <-ERRORS, such as id_mle@blocks>4"
            )
        return cls(require_metric_with_error(found["metric"]), LayerSelection.parse(found["layers"] or "blocks"), bound)

    def __str__(self) -> str:
        return f"{self.metric}@{self.layers.text}{'>' if self.bound > 0 else '<'}{self.bound:g}"

    def fires(self, change: float | None) -> bool:
        return change is not None and (change > self.bound if self.bound > 0 else change < self.bound)


def require_metric_with_error(name: str) -> str:
    """A column that has a standard error beside it; UsageError for any other."""
    named = {column.name for column in all_columns()}
    with_error = sorted(one for one in named if f"{one}_se" in named)
    if name not in with_error:
        raise UsageError(f"metric {name!r}", f"no metric with an error{suggest(name, with_error)}", "Name one of these")
    return name


def mean_over_layers(metric: str, layers: LayerSelection, rows: Sequence[MetricRow]) -> MetricMean | None:
    """Of one checkpoint's rows; null where any chosen layer has none."""
    chosen = [(row[metric], row[f"{metric}_se"]) for row in layers.filter_rows(rows)]
    if not chosen or any(found is None for found, _ in chosen):
        return None
    errors = [error for _, error in chosen if error is not None]
    error = sum(errors) / len(errors) if len(errors) == len(chosen) else None
    return MetricMean(sum(found for found, _ in chosen) / len(chosen), error)


def standardized_change(now: MetricMean | None, before: Sequence[MetricMean | None]) -> float | None:
    """From the median of the checkpoints before, in units of the standard error or of their own spread, if larger.

    A metric that training moves anyway spreads over the window, so that only what is more than usual counts. Null with
    fewer than 4 values before, or where there is no unit.
    """
    past = [one.mean for one in before[-BASELINE_WINDOW:] if one is not None]
    if now is None or len(past) < MIN_BASELINE:
        return None
    center = median(past)
    unit = max(now.error or 0.0, MAD_TO_SD * median(abs(one - center) for one in past))
    return (now.mean - center) / unit if unit else None
