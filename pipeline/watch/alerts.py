"""What a checkpoint's numbers are against those before it, and the alerts that follow: each is recorded once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.lake import Lake, open_lake
from pipeline.spec import Cell
from pipeline.strict_model import canonical_json, digest_json
from pipeline.watch.alert_rules import AlertRule, LayerSelection, MetricMean, mean_over_layers, standardized_change

REPORTED_METRICS = ("id_twonn", "anisotropy", "loss")
FIRED_PREFIX, DELIVERED_PREFIX = "alerts/v1/fired", "alerts/v1/told"
LAYER_COLUMNS = ("cell_id", "step", "layer", "state")


class Alert(NamedTuple):
    """A rule that fired at a checkpoint."""

    id: str
    """The same wherever and however often this alert is told."""
    folder: str
    """The one that is watched."""
    rule: str
    model: str
    revision: str
    step: int
    value: float
    change: float
    """In standard errors, from the checkpoints before."""

    def __str__(self) -> str:
        return f"ALERT {self.rule} at {self.revision}: {self.value:.4g}, {self.change:+.1f} standard errors"


class MetricChange(NamedTuple):
    """Of one metric."""

    metric: str
    value: MetricMean | None
    change: float | None

    def __str__(self) -> str:
        shown = "-" if self.value is None else f"{self.value.mean:.4g}"
        return f"{self.metric} {shown}" + ("" if self.change is None else f" ({self.change:+.1f} se)")


def compare_with_history(lake: Lake, cell: Cell, metrics: Sequence[tuple[str, LayerSelection]]) -> list[MetricChange]:
    """Of each metric over its layers at this cell, against the checkpoints of the same history before it."""
    steps = _rows(lake, cell, [metric for metric, _ in metrics])
    now = steps.pop(cell.checkpoint.step or 0, [])  # none where it is quarantined
    found = []
    for metric, layers in metrics:
        current = mean_over_layers(metric, layers, now)
        past = [mean_over_layers(metric, layers, rows) for rows in steps.values()]
        found.append(MetricChange(metric, current, standardized_change(current, past)))
    return found


def nonfinite_flags(lake: Lake, cell: Cell) -> list[str]:
    """Flags of this cell that say NaN or infinity: of the loss, or of a state."""
    flags = f"SELECT unnest(flags) AS flag FROM layers WHERE cell_id = {_quoted(cell.id)}"
    query = f"SELECT DISTINCT flag FROM ({flags}) WHERE starts_with(flag, 'nonfinite') ORDER BY flag"
    return open_lake(lake.uri).query_frame(query)["flag"].to_list()


def fire_alerts(lake: Lake, cell: Cell, rules: Sequence[AlertRule]) -> list[Alert]:
    """What fires at this cell and has not fired for it before; from now on it has, whoever looks."""
    judged = compare_with_history(lake, cell, [(rule.metric, rule.layers) for rule in rules]) if rules else []
    fired = []
    for rule, found in zip(rules, judged, strict=True):
        if found.value is None or found.change is None or not rule.fires(found.change):
            continue
        alert = _alert(cell, rule, found.value, found.change)
        if lake.store.put_new(f"{FIRED_PREFIX}/{alert.id}.json", canonical_json(alert._asdict()).encode()):
            fired.append(alert)
    return fired


def list_undelivered(lake: Lake, folder: Path) -> list[Alert]:
    """What fired in this folder and was not told since, in training order."""
    told = {Path(key).name for key in lake.store.list(DELIVERED_PREFIX)}
    keys = [key for key in lake.store.list(FIRED_PREFIX) if Path(key).name not in told]
    alerts = [Alert(**json.loads(lake.store.get(key))) for key in keys]
    return sorted((one for one in alerts if one.folder == str(folder)), key=lambda one: (one.step, one.id))


def record_delivery(lake: Lake, alert: Alert) -> None:
    """Somebody took it: nobody owes it any more."""
    lake.store.put_new(f"{DELIVERED_PREFIX}/{alert.id}.json", b"{}")


def _alert(cell: Cell, rule: AlertRule, found: MetricMean, change: float) -> Alert:
    about = cell.checkpoint
    return Alert(
        id=f"{cell.id}-{digest_json(str(rule), bits=64)}",
        folder=str(Path(about.path).parent),
        rule=str(rule),
        model=about.model,
        revision=about.revision,
        step=about.step or 0,
        value=found.mean,
        change=change,
    )


def _rows(lake: Lake, cell: Cell, metrics: Sequence[str]) -> dict[int, list[dict[str, Any]]]:
    """The rows of the checkpoints of this history up to and with the cell's, by step, in training order."""
    about = cell.checkpoint
    same = {"model": about.model, "kind": cell.kind, "recipe": cell.recipe.label, "corpus": cell.corpus.id}
    same |= {"stage": about.stage, "run": about.run, "corpus_sha256": cell.corpus.sha256}
    where = " AND ".join(f"{name} IS NOT DISTINCT FROM {_quoted(text)}" for name, text in same.items())
    names = ", ".join((*LAYER_COLUMNS, *dict.fromkeys(name for one in metrics for name in (one, f"{one}_se"))))
    query = f"SELECT {names} FROM layers WHERE {where} AND step <= {about.step} AND NOT superseded"
    found: dict[int, list[dict[str, Any]]] = {}
    for row in open_lake(lake.uri).query_frame(f"{query} ORDER BY step, layer").to_dicts():
        found.setdefault(row["step"], []).append(row)
    return found


def _quoted(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"
