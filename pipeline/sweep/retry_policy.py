"""How often each class of failure may happen before a cell is given up, and how long to wait in between."""

import random
from collections import Counter

from pipeline.sweep.task import ErrorClass

MAX_FAILURES: dict[ErrorClass, int] = {
    "permanent": 1,
    "error": 3,
    "oom": 3,
    "host_oom": 2,
    "crash": 5,
    "timeout": 2,
    "transient": 5,
    "changed": 1,
    "setup": 2,  # another node may have the room
    "preempted": 20,
    "infra": 3,
}
"""Failures of one cell after which it is not tried again."""

NEVER_QUARANTINED: frozenset[ErrorClass] = frozenset({"transient", "changed", "setup", "preempted", "infra"})
"""Classes that never quarantine: counted within a run, and the next run starts afresh. The others are counted from the
lake across runs, and the last strike quarantines the cell."""

WORKER_FATAL: frozenset[ErrorClass] = frozenset({"crash", "timeout", "host_oom"})
"""Classes that end a worker with all that it had still to do."""

SYSTEMIC: frozenset[ErrorClass] = frozenset({"error", "crash", "timeout", "setup"})
"""Classes that a defect of the code or the cluster would cause in every task alike."""

NOT_RETRIED_IN_RUN: frozenset[ErrorClass] = frozenset({"error"})
"""Classes that the same code would only repeat: tried again by the next run, not by this one."""


def keep_quarantining_failures(attempts: Counter[str]) -> Counter[str]:
    """Of the failed attempts that the lake knows, those that still count."""
    return Counter({name: n for name, n in attempts.items() if name not in NEVER_QUARANTINED})


def is_exhausted(error_class: ErrorClass, strikes: Counter[str]) -> bool:
    """Whether a cell with these strikes is out of tries for this class."""
    return strikes[error_class] >= MAX_FAILURES[error_class]


def is_last_crash_attempt(strikes: Counter[str]) -> bool:
    """Whether one more crash would condemn the cell: then it runs alone, so that no neighbour's crash counts."""
    return strikes["crash"] >= MAX_FAILURES["crash"] - 1


def draw_backoff_s(error_class: ErrorClass, strikes: int, rng: random.Random) -> float:
    """Exponential back-off with jitter where waiting helps, else none."""
    if error_class not in ("transient", "infra"):
        return 0.0
    return min(0.2 * 2**strikes, 60.0) * rng.uniform(0.5, 1.0)
