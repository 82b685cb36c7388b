"""SIGTERM and SIGINT, told to a loop that then drains."""

import signal
from collections.abc import Callable
from types import FrameType


class Signals:
    """Tells of SIGTERM and SIGINT for as long as it is entered. Ray sets its own handlers: enter after ray.init."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._tell(number)
