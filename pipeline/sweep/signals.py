"""SIGTERM and SIGINT, told to a loop that then drains, and kept from who would take them."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class SignalListener:
    """Tells of SIGTERM and SIGINT for as long as it is entered."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._tell(number)


@contextmanager
def preserve_sigterm_handler() -> Iterator[None]:
    """SIGTERM as it is outside, where Ray's handler would end the process with exit code 15, and would stay."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as left:
        sys.exit(128 + signal.SIGTERM if left.code == signal.SIGTERM else left.code)
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():  # no other may set one
            signal.signal(signal.SIGTERM, handler)
