"""Results on held-out runs: false alarms, warnings and lead of each detector."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from jobs.explosions.detectors import DETECTORS, Detector, first_alarm, lead, threshold
from jobs.explosions.disturbances import CALM, EARLIEST, INDUCED
from jobs.explosions.training import EVERY, Run
from pipeline.analysis.explosions import is_spike

RESAMPLES = 2000
Traces = Mapping[Run, pl.DataFrame]
REFERENCE = "gradient norm rises"
HEAD = (
    *("detector", "alarm threshold z", "calm runs with a false alarm", "explosions with a warning"),
    *("median lead of warnings", "mean lead, 0 without warning", "mean lead minus that of the gradient norm"),
)


class Evaluation(NamedTuple):
    """Results of one detector at its threshold on held-out runs."""

    detector: Detector
    above: float
    false: np.ndarray
    """One boolean per held-out calm run: True if the run has an alarm, which is a false one."""
    leads: np.ndarray
    """One lead in steps per run that `gradual` returns, from the first warning to the event; 0 without a warning."""


def is_training(run: Run) -> bool:
    """Return True for the half of each calm kind that sets the thresholds; False for every disturbed run."""
    n = run.seed // 2
    return not run.is_induced and (n % len(CALM) + n // len(CALM)) % 2 == 0


def exploded(traces: Traces, kind: str | None = None) -> list[Run]:
    """Return the disturbed runs that ended in an event."""
    induced = [run for run in traces if run.is_induced and kind in (None, run.kind)]
    return [run for run in induced if is_spike(traces[run]["loss"].fill_null(math.inf).to_list())]


def gradual(traces: Traces, kind: str | None = None) -> list[Run]:
    """Return the exploded runs that have a reading between the first disturbed update and the event.

    Without such a reading, no detector of geometry can warn of the event.
    """
    return [run for run in exploded(traces, kind) if (traces[run]["step"][-1] - 1) // EVERY > run.start // EVERY]


def evaluate(traces: Traces, share: float) -> list[Evaluation]:
    """Evaluate every detector at the threshold where at most this share of the calm training runs has an alarm."""
    training = [trace for run, trace in traces.items() if is_training(run)]
    held_out = [trace for run, trace in traces.items() if not run.is_induced and not is_training(run)]
    evaluations = []
    for detector in DETECTORS:
        above = threshold(detector, training, share)
        false = [first_alarm(detector, trace, above) is not None for trace in held_out]
        leads = [lead(detector, run, traces[run], above) for run in gradual(traces)]
        evaluations.append(Evaluation(detector, above, np.array(false), np.array(leads)))
    return evaluations


def markdown(traces: Traces, share: float) -> Iterator[str]:
    """Yield the lines of two Markdown tables with a row per detector: over all explosions, and by disturbance."""
    evaluations = evaluate(traces, share)
    reference = next(row.leads for row in evaluations if row.detector.name == REFERENCE)
    yield from _table(HEAD, ([row.detector.name, *_cells(row, reference)] for row in evaluations))
    yield ""
    kinds = [run.kind for run in gradual(traces)]
    by_kind = ([row.leads[[kind == induced for kind in kinds]] for induced in INDUCED] for row in evaluations)
    rows = zip(evaluations, by_kind, strict=True)
    yield from _table(
        ("detector", *INDUCED), ([row.detector.name, *map(_format_warnings, leads)] for row, leads in rows)
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    for line in (head, ["---"] * len(head), *lines):
        yield f"| {' | '.join(line)} |"


def _cells(row: Evaluation, reference: np.ndarray) -> list[str]:
    warned = row.leads[row.leads > 0]
    return [
        f"{row.above:.1f}",
        _format_share(int(row.false.sum()), len(row.false)),
        _format_share(len(warned), len(row.leads)),
        _format_interval(warned, np.median),
        _format_interval(row.leads, np.mean),
        "" if row.detector.name == REFERENCE else _format_interval(row.leads - reference, np.mean),
    ]


def _format_warnings(leads: np.ndarray) -> str:
    warned = leads[leads > 0]
    return f"{len(warned)} of {len(leads)}" + (f", {np.median(warned):.0f}" if len(warned) else "")


def _format_share(k: int, n: int) -> str:
    return f"{k} of {n} ({' to '.join(f'{bound:.0%}' for bound in wilson(k, n))})" if n else "none"


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the share k of n.

    Source: Wilson 1927.
    """
    z = 1.959964
    center, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(center - half, 0.0), min(center + half, 1.0)


def _format_interval(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> str:
    """Format the statistic with its 95 % bootstrap interval over runs."""
    if not len(values):
        return "-"
    generator = np.random.default_rng(0)
    drawn = [statistic(generator.choice(values, len(values))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{statistic(values):.1f} ({low:.1f} to {high:.1f})"


def about(traces: Traces) -> Iterator[str]:
    """Yield one line per disturbance: how many runs exploded, and how many of these before any reading.

    The last line states the number of spikes in the calm runs.
    """
    for kind in INDUCED:
        n = sum(run.kind == kind for run in traces)
        ended, later = exploded(traces, kind), gradual(traces, kind)
        ends = [traces[run]["step"][-1] - run.start for run in later]
        after = f", the others after {min(ends)} to {max(ends)} steps" if ends else ""
        yield f"- {kind}: {len(ended)} of {n} exploded, {len(ended) - len(later)} before a reading{after}"
    calm = [trace["loss"].to_list() for run, trace in traces.items() if not run.is_induced]
    spikes = sum(is_spike(losses[: step + 1]) for losses in calm for step in range(EARLIEST, len(losses)))
    yield f"- calm: {len(calm)} runs, {spikes} spikes in {sum(len(losses) - EARLIEST for losses in calm):,} steps"
