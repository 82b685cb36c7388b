"""Watching a training run: its checkpoints are measured as they appear, and a change that a rule names is told."""

import time
from collections.abc import Callable

from pipeline.errors import UsageError
from pipeline.watch.following import Followed, Follower, Told
from pipeline.watch.rules import Layers, Rule
from pipeline.watch.telling import tell

__all__ = ["Followed", "Layers", "Rule", "watch"]

FAILED, ALERTED = 1, 3
Say = Callable[[str], object]


def watch(followed: Followed, say: Say, every_s: float, once: bool = False, on_alert: str | None = None) -> int:
    """Follow the folder for ever, or once through what is complete; the exit code: 3 an alert, 1 a failure, else 0.

    Args:
        say: takes each line.
        every_s: from one look to the next; what has not changed from one to the next is taken to be complete.
        on_alert: a command or an http(s) address.

    Raises:
        UsageError: there is no such folder.
    """
    if not followed.folder.is_dir():
        raise UsageError(f"watch {followed.folder}", "no such folder", "Name the folder that training saves into")
    follower = Follower(followed)
    told = _look(follower, say, on_alert)
    while True:
        time.sleep(every_s)
        told += _look(follower, say, on_alert)
        if once:
            break
        told.clear()
    for name in follower.waiting():
        say(f"{name}: not complete")
    return ALERTED if any(one.alerts for one in told) else FAILED if any(one.failed for one in told) else 0


def _look(follower: Follower, say: Say, on_alert: str | None) -> list[Told]:
    told = []
    for one in follower.look():
        say(one.line)
        for alert in one.alerts:
            say(str(alert))
            if on_alert and (problem := tell(alert, on_alert)):
                say(f"alert not passed on: {problem}")
        told.append(one)
    return told
