"""What the held-out runs say: how often each detector is wrong, how often it warns, and how early."""

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
    *("detector", "alarms above z", "calm runs with a false alarm", "explosions warned of"),
    *("median lead where warned", "mean lead, none = 0", "the same less the gradient norm's"),
)


class Judged(NamedTuple):
    """A detector at its threshold, on held-out runs."""

    detector: Detector
    above: float
    false: np.ndarray
    """Per held-out calm run whether it alarmed."""
    leads: np.ndarray
    """Per exploded run how many steps before the event; 0 if it did not warn."""


def is_training(run: Run) -> bool:
    """Calm runs on which thresholds are set: half of each kind. No disturbed run is one."""
    n = run.seed // 2
    return not run.is_induced and (n % len(CALM) + n // len(CALM)) % 2 == 0


def exploded(traces: Traces, kind: str | None = None) -> list[Run]:
    """Disturbed runs that ended in an event."""
    asked = [run for run in traces if run.is_induced and kind in (None, run.kind)]
    return [run for run in asked if is_spike(traces[run]["loss"].fill_null(math.inf).to_list())]


def gradual(traces: Traces, kind: str | None = None) -> list[Run]:
    """Those of whose shape there is a reading between the first disturbed update and the event, which can warn."""
    return [run for run in exploded(traces, kind) if (traces[run]["step"][-1] - 1) // EVERY > run.start // EVERY]


def judge(traces: Traces, share: float) -> list[Judged]:
    """Every detector at the threshold that lets at most this share of the calm training runs alarm."""
    training = [trace for run, trace in traces.items() if is_training(run)]
    held_out = [trace for run, trace in traces.items() if not run.is_induced and not is_training(run)]
    judged = []
    for detector in DETECTORS:
        above = threshold(detector, training, share)
        false = [first_alarm(detector, trace, above) is not None for trace in held_out]
        leads = [lead(detector, run, traces[run], above) for run in gradual(traces)]
        judged.append(Judged(detector, above, np.array(false), np.array(leads)))
    return judged


def markdown(traces: Traces, share: float) -> Iterator[str]:
    """Two tables, line by line: of each detector over all explosions, and by the way in which they were induced."""
    judged = judge(traces, share)
    reference = next(one.leads for one in judged if one.detector.name == REFERENCE)
    yield from _table(HEAD, ([one.detector.name, *_cells(one, reference)] for one in judged))
    yield ""
    kinds = [run.kind for run in gradual(traces)]
    by_kind = ([one.leads[[kind == asked for kind in kinds]] for asked in INDUCED] for one in judged)
    named = zip(judged, by_kind, strict=True)
    yield from _table(("detector", *INDUCED), ([one.detector.name, *map(_warned, leads)] for one, leads in named))


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    for line in (head, ["---"] * len(head), *lines):
        yield f"| {' | '.join(line)} |"


def _cells(one: Judged, reference: np.ndarray) -> list[str]:
    warned = one.leads[one.leads > 0]
    return [
        f"{one.above:.1f}",
        _share(int(one.false.sum()), len(one.false)),
        _share(len(warned), len(one.leads)),
        _over_runs(warned, np.median),
        _over_runs(one.leads, np.mean),
        "" if one.detector.name == REFERENCE else _over_runs(one.leads - reference, np.mean),
    ]


def _warned(leads: np.ndarray) -> str:
    warned = leads[leads > 0]
    return f"{len(warned)} of {len(leads)}" + (f", {np.median(warned):.0f}" if len(warned) else "")


def _share(k: int, n: int) -> str:
    return f"{k} of {n} ({' to '.join(f'{bound:.0%}' for bound in wilson(k, n))})" if n else "none"


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, k of n.

    Source: Wilson 1927.
    """
    z = 1.959964
    center, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(center - half, 0.0), min(center + half, 1.0)


def _over_runs(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> str:
    """The statistic with its 95 % bootstrap interval over runs."""
    if not len(values):
        return "-"
    generator = np.random.default_rng(0)
    drawn = [statistic(generator.choice(values, len(values))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{statistic(values):.1f} ({low:.1f} to {high:.1f})"


def about(traces: Traces) -> Iterator[str]:
    """How many disturbed runs of each kind exploded, how many of these too soon, and how calm the calm ones were."""
    for kind in INDUCED:
        n = sum(run.kind == kind for run in traces)
        ended, slowly = exploded(traces, kind), gradual(traces, kind)
        ends = [traces[run]["step"][-1] - run.start for run in slowly]
        after = f", the others after {min(ends)} to {max(ends)} steps" if ends else ""
        yield f"- {kind}: {len(ended)} of {n} exploded, {len(ended) - len(slowly)} before a reading{after}"
    calm = [trace["loss"].to_list() for run, trace in traces.items() if not run.is_induced]
    spikes = sum(is_spike(losses[: step + 1]) for losses in calm for step in range(EARLIEST, len(losses)))
    yield f"- calm: {len(calm)} runs, {spikes} spikes in {sum(len(losses) - EARLIEST for losses in calm):,} steps"
