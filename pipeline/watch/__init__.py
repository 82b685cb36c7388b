"""Watching a training run: its checkpoints are measured as they appear, and a change that a rule names is told."""

import time
from collections.abc import Callable

from pipeline.errors import UsageError
from pipeline.watch.alert_rules import AlertRule, LayerSelection
from pipeline.watch.follower import Follower, WatchConfig
from pipeline.watch.notifier import Notifier, check_target

__all__ = ["AlertRule", "LayerSelection", "WatchConfig", "watch_folder"]

EXIT_FAILED, EXIT_ALERTED = 1, 3
LineWriter = Callable[[str], object]


def watch_folder(
    followed: WatchConfig, say: LineWriter, every_s: float, once: bool = False, on_alert: str | None = None
) -> int:
    """Follow the folder for ever, or once through what is complete; the exit code: 3 an alert, 1 a failure, else 0.

    Args:
        say: takes each line.
        every_s: from one look to the next; what has not changed from one to the next is taken to be complete.
        on_alert: a command or an http(s) address.

    Raises:
        UsageError: there is no such folder, or `on_alert` is an address that cannot be one.
    """
    if on_alert:
        check_target(on_alert)
    if not followed.folder.is_dir():
        raise UsageError(f"watch {followed.folder}", "no such folder", "Name the folder that training saves into")
    follower = Follower(followed)
    teller = Notifier(followed.lake, followed.folder, say, on_alert)
    failed = _poll(follower, say, teller)
    while True:
        time.sleep(every_s)
        failed |= _poll(follower, say, teller)
        if once:
            break
    for name in follower.list_pending():
        say(f"{name}: not complete")
    return EXIT_ALERTED if teller.any_attempted else EXIT_FAILED if failed else 0


def _poll(follower: Follower, say: LineWriter, teller: Notifier) -> bool:
    """Whether anything failed."""
    teller.retry_undelivered()
    failed = False
    for one in follower.poll():
        say(one.line)
        for alert in one.alerts:
            teller.deliver(alert)
        failed |= one.failed
    return failed
