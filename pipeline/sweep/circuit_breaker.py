"""Circuit breaker, which stops a run if the code or the cluster is at fault, not the checkpoints.

It is separate from the driver, so that its rules can be tested without a run.
"""

from collections import Counter
from collections.abc import Iterable

from pipeline.sweep.retry_policy import POLICIES
from pipeline.sweep.task import Outcome

TRIP_THRESHOLDS = {5: 5, 20: 11}
"""Map N to n: the run stops if at least n of the first N finished checkpoints failed with the same exception.
Only failures count whose class is marked as systemic in `retry_policy`."""
SUSPICIOUS_STREAK = 5
"""Number of failures in a row on one host, at any checkpoints, after which the canary task must succeed there."""


class CircuitBreaker:
    """Remembers the last result of each of the first checkpoints, and the current streak of failures of each host."""

    def __init__(self) -> None:
        self._failure_by_content: dict[str, str] = {}
        self._streaks: Counter[str] = Counter()

    @property
    def is_disarmed(self) -> bool:
        """True once so many checkpoints have finished that the breaker no longer trips."""
        return len(self._failure_by_content) >= max(TRIP_THRESHOLDS)

    def record_task(self, content: str, outcomes: Iterable[Outcome]) -> str:
        """Record a finished task; return the reason to stop the run, or an empty string to continue."""
        if self.is_disarmed:
            return ""
        is_new = content not in self._failure_by_content
        self._failure_by_content[content] = _systemic_failure(list(outcomes))
        name, count = Counter(self._failure_by_content.values()).most_common(1)[0]
        finished = len(self._failure_by_content)
        if not is_new or not name or count < TRIP_THRESHOLDS.get(finished, count + 1):
            return ""
        return f"{count} of the first {finished} checkpoints failed with {name}: the code or the cluster is at fault"

    def record_host(self, host: str, succeeded: bool) -> bool:
        """Record a success or a failure on a host; return True if the canary must now succeed there first."""
        self._streaks[host] = 0 if succeeded else self._streaks[host] + 1
        return self._streaks[host] > 0 and self._streaks[host] % SUSPICIOUS_STREAK == 0


def _systemic_failure(outcomes: list[Outcome]) -> str:
    """Return the name of the exception with which all cells of a task failed, if its class is systemic; else empty."""
    names = {o.message.split(":")[0] if o.error_class and POLICIES[o.error_class].systemic else "" for o in outcomes}
    return names.pop() if len(names) == 1 else ""
