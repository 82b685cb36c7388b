"""Handling of SIGTERM and SIGINT: a listener for loops that drain, and guards against Ray replacing the handlers."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
def defer_sigterm() -> Iterator[None]:
    """Defer SIGTERM until the context ends, then exit with 143. Ray aborts the process if a signal interrupts its
    start-up, so the SIGTERM handler that Ray installs meanwhile is refused."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    received: list[int] = []
    install, before = signal.signal, signal.getsignal(signal.SIGTERM)

    def refuse_sigterm(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number == signal.SIGTERM else install(number, handler)

    install(signal.SIGTERM, lambda number, _: received.append(number))
    signal.signal = refuse_sigterm
    try:
        yield
    finally:
        signal.signal = install
        install(signal.SIGTERM, before)
    if received:
        sys.exit(128 + signal.SIGTERM)


@contextmanager
def preserve_sigterm_handler() -> Iterator[None]:
    """Restore the SIGTERM handler on exit, because Ray's shutdown resets it."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if (
            handler is not None and threading.current_thread() is threading.main_thread()
        ):  # only the main thread may set one
            signal.signal(signal.SIGTERM, handler)
