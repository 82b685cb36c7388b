"""The circuit breaker: when the first checkpoints of a run end alike, the code or the cluster is at fault, not they."""

from collections import Counter
from collections.abc import Iterable

from pipeline.sweep import retry_policy
from pipeline.sweep.task import Outcome

TRIP_THRESHOLDS = {5: 5, 20: 11}
"""Of the first so many checkpoints, so many that come to the same such end stop the run."""


class CircuitBreaker:
    """Remembers the last end of each checkpoint of a run, until so many have been seen that all is well."""

    def __init__(self) -> None:
        self._ends: dict[str, str] = {}

    @property
    def is_disarmed(self) -> bool:
        """So many checkpoints have come to an end that those which fail are to blame themselves."""
        return len(self._ends) >= max(TRIP_THRESHOLDS)

    def record_task(self, content: str, outcomes: Iterable[Outcome]) -> str:
        """Take note of a task's end; why the run must stop, if it must."""
        if self.is_disarmed:
            return ""
        is_new = content not in self._ends
        self._ends[content] = _end(list(outcomes))
        end, alike = Counter(self._ends.values()).most_common(1)[0]
        if not is_new or not end or alike < TRIP_THRESHOLDS.get(len(self._ends), alike + 1):
            return ""
        return f"{alike} of the first {len(self._ends)} checkpoints failed with {end}: no fault of theirs"


def _end(outcomes: list[Outcome]) -> str:
    """The name of the exception, no checkpoint's own, that ended a task; empty where any cell fared otherwise."""
    ends = {o.message.split(":")[0] if o.error_class in retry_policy.SYSTEMIC else "" for o in outcomes}
    return ends.pop() if len(ends) == 1 else ""
