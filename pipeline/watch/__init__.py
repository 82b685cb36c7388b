"""Watch of a training run: its checkpoints are measured as they appear, and a metric that changes raises an alert."""

import os
import time
from collections.abc import Callable

from pipeline.errors import UsageError
from pipeline.watch.alert_rules import AlertRule, LayerSelection
from pipeline.watch.follower import Follower, WatchConfig
from pipeline.watch.notifier import Notifier
from pipeline.watch.preparation import check_watch, describe_watch

__all__ = [
    "AlertRule",
    "LayerSelection",
    "WatchConfig",
    "check_watch",
    "describe_watch",
    "lower_priority",
    "watch_folder",
]

EXIT_FAILED, EXIT_ALERTED = 1, 3
LineWriter = Callable[[str], object]


def watch_folder(
    config: WatchConfig, write_line: LineWriter, every_s: float, once: bool = False, on_alert: str | None = None
) -> int:
    """Watch the folder until interrupted or, with `once`, for one pass.

    Return the exit code of the pass: 3 if there was an alert to deliver, else 1 if a checkpoint failed, else 0.

    Args:
        every_s: polling interval in seconds. A checkpoint is taken as complete if its files are whole and did not
            change during one interval, or if training has reported it as finished.
        on_alert: shell command or http(s) address that receives alerts; None = alerts are only printed.

    Raises:
        UsageError: a check of `check_watch` fails.
    """
    check_watch(config, on_alert)
    follower = Follower(config, retell=not once)
    notifier = Notifier(config.lake, config.folder, write_line, on_alert)
    failed = _poll(follower, write_line, notifier)
    while True:
        time.sleep(every_s)
        failed |= _poll(follower, write_line, notifier)
        if once:
            break
    for name in follower.list_pending():
        write_line(f"{name}: not complete")
    return EXIT_ALERTED if notifier.any_attempted else EXIT_FAILED if failed else 0


def _poll(follower: Follower, write_line: LineWriter, notifier: Notifier) -> bool:
    """Process every checkpoint that is complete; return True if one failed."""
    notifier.retry_undelivered()
    failed = False
    for event in follower.poll():
        if event.line:
            write_line(event.line)
        for alert in event.alerts:
            notifier.deliver(alert)
        failed |= event.failed
    return failed


def lower_priority(niceness: int, gpu_share: float | None) -> None:
    """Lower this process's priority and cap its share of the GPU's memory, so that it does not slow training down.

    Raises:
        UsageError: `gpu_share` is given and no CUDA device is available.
    """
    os.nice(niceness)
    if gpu_share is None:
        return
    import torch  # imported late: a watch on the CPU imports torch only with its first measurement

    if not torch.cuda.is_available():
        raise UsageError(f"--gpu-share {gpu_share}", "no CUDA device", "Leave it out, or watch on a machine with a GPU")
    torch.cuda.set_per_process_memory_fraction(gpu_share)
