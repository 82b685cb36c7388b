"""Comparison of a live run with the other runs of its size in the lake: its rank at a step, and an alarm.

The departure of a run at a step is its distance from the median of all runs, in units of their spread. The alarm is
raised if the largest departure of the live run so far exceeds the largest departure of any other run over its whole
history. This treats all runs alike: if the live run and n other runs are exchangeable, the live run has the largest
departure with probability 1 / (n + 1), which is the rate of false alarms. The alarm is therefore offered only if there
are MIN_RUNS other runs; tests/watch/test_population.py measures its rate.

A step of the live run is required if MIN_RUNS, or half, of the other runs have it. A run that lacks a required step,
such as a run that stopped early, is left out.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from pipeline.lake import Lake, open_lake
from pipeline.spec import Cell
from pipeline.watch.alert_rules import MAD_TO_SD, LayerSelection

MIN_RUNS = 19
"""Smallest number of other runs for which the alarm is offered. With 19, its false-alarm rate is 1 / (19 + 1), 5 %."""
MIN_SHOWN = 3
"""Smallest number of other runs for which the rank among them is reported."""
SIZE_TOLERANCE = 0.05
"""Largest relative difference between the numbers of parameters of two runs that count as of the same size."""
Curve = Mapping[int, float]
"""Maps a step to the value of a metric."""


class PopulationPlace(NamedTuple):
    """Rank of the live run's value of a metric among the values of the other runs at the same step."""

    metric: str
    low: float
    """Lowest value of the other runs."""
    high: float
    """Highest value of the other runs."""
    below: int
    """Number of other runs with a lower value."""
    runs: int

    def __str__(self) -> str:
        return f"{self.metric} above {self.below} of {self.runs} ({self.low:.4g} to {self.high:.4g})"


class Departure(NamedTuple):
    """Largest departure of the live run, and of any other run, in units of the spread of all runs at a step."""

    live: float
    """Largest departure of the live run so far."""
    others: float
    """Largest departure of any other run over its whole history."""
    runs: int
    """Number of other runs that are compared: those with every required step, which the module docstring defines."""

    @property
    def is_alarm(self) -> bool:
        return self.runs >= MIN_RUNS and self.live > self.others


class PopulationCurves(NamedTuple):
    """Curves of one metric, averaged over the selected layers: of the live run up to a cell, and of each other run."""

    live: Curve
    others: Sequence[Curve]

    def place(self, metric: str, step: int) -> PopulationPlace | None:
        """Return the rank of the live run at one step.

        Return None if the live run has no value at this step, or if fewer than MIN_SHOWN other runs have one.
        """
        values = [curve[step] for curve in self.others if step in curve]
        if step not in self.live or len(values) < MIN_SHOWN:
            return None
        below = sum(value < self.live[step] for value in values)
        return PopulationPlace(metric, min(values), max(values), below, len(values))

    def depart(self) -> Departure:
        """Return the largest departures of the live run and of the other runs; see `measure_departure`."""
        return measure_departure(self.live, self.others)

    def explain_no_alarm(self) -> str | None:
        """Return the reason why the alarm is not offered; None if it is offered."""
        runs = self.depart().runs
        if not self.live:
            return "the run has no value in these layers"
        if runs >= MIN_RUNS:
            known = max(self.live) in _shared_steps(self.live, self.others)
            return None if known else f"most other runs of its size lack step {max(self.live):,}"
        found = f"at most 5 % false alarms need {MIN_RUNS} other runs of its size, the lake has {len(self.others)}"
        return found if runs == len(self.others) else f"{found}, of which {runs} have the steps of this run"


def measure_departure(live: Curve, others: Sequence[Curve]) -> Departure:
    """Return the largest departures of a live run, and of those other runs that have all required steps.

    Only steps count that all these other runs have. Both departures are 0 if no other run has all required steps.
    """
    others = _select_complete(live, others)
    steps = set.intersection(*(set(curve) for curve in others)) if others else set[int]()
    largest, own = [0.0] * len(others), 0.0
    for step in sorted(steps):
        pool = [curve[step] for curve in others] + ([live[step]] if step in live else [])
        center = median(pool)
        spread = MAD_TO_SD * median(abs(value - center) for value in pool)
        if not spread:
            continue
        apart = [abs(value - center) / spread for value in pool]
        largest = [max(before, now) for before, now in zip(largest, apart, strict=False)]
        own = max(own, apart[-1]) if step in live else own
    return Departure(own, max(largest, default=0.0), len(others))


def _select_complete(live: Curve, others: Sequence[Curve]) -> list[Curve]:
    """Return the other runs that have every required step; empty if no step is required."""
    asked = _shared_steps(live, others)
    return [curve for curve in others if asked and asked <= set(curve)]


def _shared_steps(live: Curve, others: Sequence[Curve]) -> set[int]:
    """Return the required steps: those of the live run that at least MIN_RUNS, or half, of the other runs have."""
    enough = max(min(MIN_RUNS, sum(bool(curve) for curve in others) / 2), 1)
    return {step for step in live if sum(step in curve for curve in others) >= enough}


def load_populations(lake: Lake, cell: Cell, metrics: Sequence[tuple[str, LayerSelection]]) -> list[PopulationCurves]:
    """Load the curves of this cell's run and of the other runs of its size; return one entry per metric.

    Runs of the same size agree in kind, number of blocks and width, and their numbers of parameters differ by at most
    5 %. Only rows count that were measured on the same text with the same recipe and algorithms. A checkpoint is left
    out of a curve if a selected layer has no value there, but has a value at another checkpoint of these runs.

    Args:
        metrics: pairs of a metric and the layers over which it is averaged.
    """
    checkpoint, corpus = cell.checkpoint, cell.corpus
    same = {"kind": cell.kind, "recipe": cell.recipe.label, "corpus": corpus.id, "corpus_sha256": corpus.sha256}
    where = " AND ".join(f"{name} IS NOT DISTINCT FROM {quote_sql(text)}" for name, text in same.items())
    kept = {"p": "n_params", "d": "d_model", "l": "n_layers", "a": "algorithm", "f": "recipe_fingerprint"}
    size = f"SELECT {', '.join(f'any_value({name}) AS {short}' for short, name in kept.items())} FROM layers"
    means = ", ".join(_mean_sql(metric, _select_layers(layers)) for metric, layers in metrics)
    query = (
        f"WITH own AS ({size} WHERE cell_id = {quote_sql(cell.id)}), "
        f"pool AS (SELECT * FROM layers, own WHERE {where} AND NOT coalesce(superseded, false) AND step IS NOT NULL "
        f"AND d_model = d AND n_layers = l AND abs(n_params - p) <= {SIZE_TOLERANCE} * p "
        f"AND algorithm IS NOT DISTINCT FROM a AND recipe_fingerprint IS NOT DISTINCT FROM f) "
        f"SELECT model, stage, run, step, {means} FROM pool GROUP BY model, stage, run, step"
    )
    rows = open_lake(lake.uri).query_frame(query).rows()
    own = (checkpoint.model, checkpoint.stage, checkpoint.run)
    return [_gather_curves(rows, 4 + index, own, checkpoint.step or 0) for index in range(len(metrics))]


def _mean_sql(metric: str, chosen: str) -> str:
    """Return the SQL expression for the mean of a metric at a checkpoint over the layers that `chosen` selects.

    Layers without a value at any checkpoint are left out. The mean is null if another layer has no value here.
    """
    known = f"{chosen} AND {metric} IS NOT NULL"
    needed = f"(SELECT count(DISTINCT layer) FROM pool WHERE {known})"
    return f"CASE WHEN count(DISTINCT layer) FILTER ({known}) = {needed} THEN avg({metric}) FILTER ({chosen}) END"


def _gather_curves(rows: Sequence[tuple[Any, ...]], at: int, own: tuple[Any, ...], now: int) -> PopulationCurves:
    live: dict[int, float] = {}
    others: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in rows:
        curve = live if row[:3] == own else others.setdefault(row[:3], {})
        if row[at] is not None:
            curve[row[3]] = row[at]
    past = {step: value for step, value in live.items() if step <= now}
    return PopulationCurves(past, [curve for curve in others.values() if curve])


def _select_layers(layers: LayerSelection) -> str:
    if layers.first is None:
        return "true" if layers.text == "all" else "state = 'block'"
    return f"layer BETWEEN {layers.first} AND {layers.last or layers.first}"


def quote_sql(text: str | None) -> str:
    """Return `text` as an SQL literal; NULL for None."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"
