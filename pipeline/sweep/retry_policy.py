"""Retry policy: one row per failure class. Other modules classify failures; this module decides the consequences.

A new class is one row here, plus the exception that maps to it in `worker.ERROR_CLASS_BY_EXCEPTION`; a test compares
the table in `failures.md` with these rows.
"""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

ErrorClass = Literal[
    "permanent",
    "error",
    "oom",
    "host_oom",
    "crash",
    "timeout",
    "transient",
    "changed",
    "setup",
    "preempted",
    "infra",
    "leased",
    "not_begun",
]
"""Failure class. The names are part of the lake's format: they are in the file names of `attempts/v1`."""


class FailurePolicy(NamedTuple):
    """Consequences of a failure of one class."""

    cause: str
    max_attempts: int | None
    """Largest number of attempts at one cell. None = there is no limit, and a failure is not recorded as an attempt."""
    quarantines: Literal["no", "yes", "if confirmed"] = "no"
    """Effect on quarantine.

    `no`: never quarantines; every run counts its attempts from zero.
    `yes`: attempts are counted across runs, and the cell is quarantined after the last one.
    `if confirmed`: like `yes`, but an attempt counts only once another checkpoint, or the canary, has succeeded on the
        same host.
    """
    retry_in_run: bool = True
    """True if the cell is retried in the same run, False if only in the next run."""
    backoff: bool = False
    """True if a retry waits; the wait grows exponentially with the number of failures, and has jitter."""
    scope: Literal["cell", "worker", "run"] = "cell"
    """Extent of the failure: one cell; the worker process, with all its remaining cells; or the run (lake or Ray)."""
    systemic: bool = False
    """True if the circuit breaker counts the failure, because a defect of the code or the cluster may cause it in every
    task."""
    on_retry: Literal["repeat", "half_batch", "more_memory", "other_node", "last_alone"] = "repeat"
    """Change for the next attempt.

    `repeat`: no change.
    `half_batch`: half the tokens per forward pass.
    `more_memory`: the memory of one more slot.
    `other_node`: the retry starts before all other tasks, if possible on a node on which the fetch has not failed.
    `last_alone`: no change, but the last attempt runs while no other task runs.
    """


POLICIES: dict[ErrorClass, FailurePolicy] = {
    "permanent": FailurePolicy("the checkpoint or the corpus is unusable", 1, quarantines="yes", retry_in_run=False),
    "error": FailurePolicy("unexpected exception", 3, quarantines="if confirmed", retry_in_run=False, systemic=True),
    "oom": FailurePolicy("the GPU is out of memory", 3, quarantines="if confirmed", on_retry="half_batch"),
    "host_oom": FailurePolicy(
        cause="the host has too little memory: an allocation failed, or the node killed the worker",
        max_attempts=2,
        quarantines="if confirmed",
        scope="worker",
        on_retry="more_memory",
    ),
    "crash": FailurePolicy(
        cause="the worker process died",
        max_attempts=5,
        quarantines="if confirmed",
        scope="worker",
        systemic=True,
        on_retry="last_alone",
    ),
    "timeout": FailurePolicy(
        "the watchdog ended the worker", 2, quarantines="if confirmed", scope="worker", systemic=True
    ),
    "transient": FailurePolicy("network or busy disk", 5, backoff=True),
    "changed": FailurePolicy("the files changed after planning", 1, retry_in_run=False),
    "setup": FailurePolicy("the node cannot run the task", 2, systemic=True, on_retry="other_node"),
    "preempted": FailurePolicy("the node was lost", 20),
    "infra": FailurePolicy("the lake or Ray does not work", 3, backoff=True, scope="run"),
    "leased": FailurePolicy("another run is measuring the checkpoint", None, backoff=True),
    "not_begun": FailurePolicy("the worker died in an earlier cell of the task", None),
}


def count_across_runs(attempts: Counter[str]) -> Counter[str]:
    """Return the counts of the classes that can quarantine; only these are counted across runs."""
    return Counter({name: n for name, n in attempts.items() if (p := _policy(name)) and p.quarantines != "no"})


def is_exhausted(error_class: ErrorClass, failures: Counter[str]) -> bool:
    """Return True if a cell with these failures has used up the attempts of this class."""
    limit = POLICIES[error_class].max_attempts
    return limit is not None and failures[error_class] >= limit


def must_run_alone(failures: Counter[str]) -> bool:
    """Return True if the next attempt is the last of a `last_alone` class.

    It runs alone, so that no other task can cause its failure.
    """
    return any(
        p.on_retry == "last_alone" and failures[name] >= (p.max_attempts or 0) - 1 for name, p in POLICIES.items()
    )


def count_retries(failures: Counter[str], change: str) -> int:
    """Count the failures whose policy makes this change to the next attempt, such as `half_batch`."""
    return sum(n for name, n in failures.items() if (p := _policy(name)) and p.on_retry == change)


def draw_backoff_s(error_class: ErrorClass, failures: int, rng: random.Random) -> float:
    """Draw the seconds to wait before the next attempt: exponential with jitter, at most 60 s; 0 without back-off."""
    if not POLICIES[error_class].backoff:
        return 0.0
    return min(0.2 * 2**failures, 60.0) * rng.uniform(0.5, 1.0)


def _policy(name: str) -> FailurePolicy | None:
    """Return the policy of a class; None for a class that only another version of this package knows."""
    return cast(Mapping[str, FailurePolicy], POLICIES).get(name)
