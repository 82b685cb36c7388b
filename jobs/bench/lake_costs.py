"""Cost of the lake's commands by number of cells; each runs in a process of its own (`lake_child`)."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from jobs.bench.comparison import Comparison, Subject, at_most
from jobs.bench.lake_child import AGAIN, FIRST, VERIFY, WARM_PLAN

PEAK_LIMIT_MB = 1000.0
CPU_LIMITS_S = {FIRST: 300.0, AGAIN: 30.0, VERIFY: 300.0, WARM_PLAN: 5.0}
"""Largest CPU seconds of a command, by its name, on the largest lake."""
EXPONENT_LIMIT = 1.15
"""Largest slope of log(cost) against log(cells): linear, with room for the noise of a shared machine."""
MIN_CPU_S = 0.001
"""Shorter CPU times, in seconds, count as this one, since the logarithm of 0 is undefined."""


class Cost(NamedTuple):
    """Cost of one command in a fresh process."""

    cpu: float
    """CPU seconds of the command, without those of its imports."""
    peak_mb: float
    """Peak resident memory of the whole process."""


def run_step(step: str, uri: str, stubs: str | Path) -> Cost:
    """Run the command that is named `step` in `lake_child` in a child process."""
    command = [sys.executable, "-m", "jobs.bench.lake_child", step, uri, str(stubs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def cost_rows(costs: Mapping[int, Mapping[str, Cost]], promised: bool) -> Iterator[Comparison]:
    """Yield, for each command, the rows of its cost at each number of cells, and then the row of its exponent.

    `costs` has the cost of each command by the number of cells, then by the name of the command.
    """
    sizes = sorted(costs)
    for step in costs[sizes[0]]:
        for size in sizes:
            subject, cost = Subject("lake", step, size), costs[size][step]
            linear = costs[sizes[0]][step].cpu * size / sizes[0]
            yield Comparison(subject, f"{sizes[0]:,} cells, scaled up", "CPU s", [cost.cpu], [linear], at_most())
            limit = at_most(1.0).only_if(promised)
            yield Comparison(subject, "limit", "MB", [cost.peak_mb], [PEAK_LIMIT_MB], limit)
        if step in CPU_LIMITS_S:
            yield cpu_row(Subject("lake", step, sizes[-1]), costs[sizes[-1]][step], promised)
        if len(sizes) > 1:
            subject = Subject("lake", f"{step}, growth with cells", sizes[-1])
            slope = fit_exponent(sizes, [costs[size][step].cpu for size in sizes])
            limit = at_most(EXPONENT_LIMIT).only_if(promised)
            yield Comparison(subject, "linear", "exponent", [slope], [1.0], limit)


def cpu_row(subject: Subject, cost: Cost, promised: bool) -> Comparison:
    """Compare the CPU time of a command with its limit."""
    limit = at_most(1.0).only_if(promised)
    return Comparison(subject, "limit", "CPU s", [cost.cpu], [CPU_LIMITS_S[subject.work]], limit)


def fit_exponent(sizes: list[int], costs: list[float]) -> float:
    """Fit cost ~ size ** exponent, and return the exponent: the slope of the least-squares line of the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(max(cost, MIN_CPU_S)) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)
