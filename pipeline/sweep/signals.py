"""Handling of SIGTERM and SIGINT: a listener for loops that drain, and protection from libraries that take them."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class SignalListener:
    """Context manager that calls `on_signal` with the number of each SIGTERM and SIGINT."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal

    def __enter__(self) -> None:
        self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._on_signal(number)


@contextmanager
def preserve_sigterm_handler() -> Iterator[None]:
    """Restore the SIGTERM handler on exit. Ray installs its own, which ends the process with exit code 15; such an exit
    becomes 143 here."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as left:
        sys.exit(128 + signal.SIGTERM if left.code == signal.SIGTERM else left.code)
    finally:
        if (
            handler is not None and threading.current_thread() is threading.main_thread()
        ):  # only the main thread may set one
            signal.signal(signal.SIGTERM, handler)
