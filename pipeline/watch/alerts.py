"""Comparison of a checkpoint's metrics with preceding checkpoints, and the alerts that follow from it.

Each alert is recorded in the lake exactly once.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.lake import Lake, open_lake
from pipeline.spec import Cell
from pipeline.strict_model import canonical_json, digest_json
from pipeline.watch.alert_rules import (
    POPULATION_SUFFIX,
    AlertRule,
    LayerSelection,
    MetricMean,
    mean_over_layers,
    standardized_change,
)
from pipeline.watch.population import PopulationCurves, load_populations, quote_sql

REPORTED_METRICS = ("id_twonn", "anisotropy", "loss")
FIRED_PREFIX, DELIVERED_PREFIX = "alerts/v1/fired", "alerts/v1/told"
LAYER_COLUMNS = ("cell_id", "step", "layer", "state")


class Alert(NamedTuple):
    """One firing of a rule at a checkpoint."""

    id: str
    """Id of the alert, which is the same in every delivery."""
    folder: str
    """Watched folder."""
    rule: str
    model: str
    revision: str
    step: int
    value: float
    """Mean of the metric over the layers of the rule."""
    change: float
    """Change from the preceding checkpoints, as `standardized_change` returns it. For a population rule: the largest
    departure of this run, divided by the largest departure of any other run of its size."""

    def __str__(self) -> str:
        if self.rule.endswith(POPULATION_SUFFIX):
            words = f"departs from the other runs of its size {self.change:.2g} times as far as any of these does"
            return f"ALERT {self.rule} at {self.revision}: {self.value:.4g}, {words}"
        return f"ALERT {self.rule} at {self.revision}: {self.value:.4g}, {self.change:+.1f} standard errors"


class MetricChange(NamedTuple):
    """Value of one metric at a checkpoint, and its standardized change; each is None if it cannot be computed."""

    metric: str
    value: MetricMean | None
    change: float | None

    def __str__(self) -> str:
        shown = "-" if self.value is None else f"{self.value.mean:.4g}"
        return f"{self.metric} {shown}" + ("" if self.change is None else f" ({self.change:+.1f} se)")


def compare_with_history(lake: Lake, cell: Cell, metrics: Sequence[tuple[str, LayerSelection]]) -> list[MetricChange]:
    """Compare metrics of this cell with the preceding checkpoints of its history; return one change per metric.

    Args:
        metrics: pairs of a metric and the layers over which it is averaged.
    """
    steps = _rows(lake, cell, [metric for metric, _ in metrics])
    now = steps.pop(cell.checkpoint.step or 0, [])  # a quarantined cell has no rows
    changes = []
    for metric, layers in metrics:
        current = mean_over_layers(metric, layers, now)
        past = [mean_over_layers(metric, layers, rows) for rows in steps.values()]
        changes.append(MetricChange(metric, current, standardized_change(current, past)))
    return changes


def nonfinite_flags(lake: Lake, cell: Cell) -> list[str]:
    """Return the flags of this cell that mark NaN or infinity in the loss or in a hidden state."""
    flags = f"SELECT unnest(flags) AS flag FROM layers WHERE cell_id = {quote_sql(cell.id)}"
    query = f"SELECT DISTINCT flag FROM ({flags}) WHERE starts_with(flag, 'nonfinite') ORDER BY flag"
    return open_lake(lake.uri).query_frame(query)["flag"].to_list()


def fire_alerts(lake: Lake, cell: Cell, rules: Sequence[AlertRule]) -> list[Alert]:
    """Evaluate the rules at this cell, record the new alerts in the lake, and return them.

    Recording is atomic: if several processes evaluate the rules, only one of them returns an alert.
    """
    changes = compare_with_history(lake, cell, [(rule.metric, rule.layers) for rule in rules]) if rules else []
    asked = [rule for rule in rules if rule.population]
    curves = iter(load_populations(lake, cell, [(rule.metric, rule.layers) for rule in asked]) if asked else [])
    fired = []
    for rule, change in zip(rules, changes, strict=True):
        past = change.change if rule.fires(change.change) else None
        size = _measure_departure(next(curves)) if rule.population else past
        if change.value is None or size is None:
            continue
        alert = _alert(cell, rule, change.value, size)
        if lake.store.put_new(f"{FIRED_PREFIX}/{alert.id}.json", canonical_json(alert._asdict()).encode()):
            fired.append(alert)
    return fired


def _measure_departure(curves: PopulationCurves) -> float | None:
    """Return the run's departure, divided by the largest of the other runs; None if there is no alarm or this is 0."""
    departure = curves.depart()
    return departure.live / departure.others if departure.is_alarm and departure.others else None


def describe_population(lake: Lake, cell: Cell, layers: LayerSelection, rules: Sequence[AlertRule]) -> list[str]:
    """Return texts on the rank of the run among the other runs of its size, and on alarms that are not offered.

    One text has the ranks of the REPORTED_METRICS, if enough other runs have this step. Each population rule whose
    alarm is not offered adds a text with the reason.
    """
    step, asked = cell.checkpoint.step or 0, [rule for rule in rules if rule.population]
    metrics = [*((metric, layers) for metric in REPORTED_METRICS), *((rule.metric, rule.layers) for rule in asked)]
    curves = load_populations(lake, cell, metrics)
    named = zip(REPORTED_METRICS, curves, strict=False)
    places = [place for metric, each in named if (place := each.place(metric, step))]
    shown = [f"runs of its size: {', '.join(map(str, places))}"] if places else []
    for rule, each in zip(asked, curves[len(REPORTED_METRICS) :], strict=True):
        if why := each.explain_no_alarm():
            shown.append(f"{rule} is not offered: {why}")
    return shown


def list_undelivered(lake: Lake, folder: Path) -> list[Alert]:
    """Return the alerts of this folder whose delivery is not recorded, in training order."""
    delivered = {Path(key).name for key in lake.store.list(DELIVERED_PREFIX)}
    keys = [key for key in lake.store.list(FIRED_PREFIX) if Path(key).name not in delivered]
    alerts = [Alert(**json.loads(lake.store.get(key))) for key in keys]
    return sorted((alert for alert in alerts if alert.folder == str(folder)), key=lambda alert: (alert.step, alert.id))


def record_delivery(lake: Lake, alert: Alert) -> None:
    """Record that the alert was delivered, so that it is not delivered again."""
    lake.store.put_new(f"{DELIVERED_PREFIX}/{alert.id}.json", b"{}")


def _alert(cell: Cell, rule: AlertRule, value: MetricMean, change: float) -> Alert:
    checkpoint = cell.checkpoint
    return Alert(
        id=f"{cell.id}-{digest_json(str(rule), bits=64)}",
        folder=str(Path(checkpoint.path).parent),
        rule=str(rule),
        model=checkpoint.model,
        revision=checkpoint.revision,
        step=checkpoint.step or 0,
        value=value.mean,
        change=change,
    )


def _rows(lake: Lake, cell: Cell, metrics: Sequence[str]) -> dict[int, list[dict[str, Any]]]:
    """Return the rows of this history by step, in training order, up to and including the cell's checkpoint."""
    checkpoint = cell.checkpoint
    same = {"model": checkpoint.model, "kind": cell.kind, "recipe": cell.recipe.label, "corpus": cell.corpus.id}
    same |= {"stage": checkpoint.stage, "run": checkpoint.run, "corpus_sha256": cell.corpus.sha256}
    where = " AND ".join(f"{name} IS NOT DISTINCT FROM {quote_sql(text)}" for name, text in same.items())
    names = ", ".join((*LAYER_COLUMNS, *dict.fromkeys(name for one in metrics for name in (one, f"{one}_se"))))
    query = f"SELECT {names} FROM layers WHERE {where} AND step <= {checkpoint.step} AND NOT superseded"
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in open_lake(lake.uri).query_frame(f"{query} ORDER BY step, layer").to_dicts():
        by_step.setdefault(row["step"], []).append(row)
    return by_step
