"""Times: of both sides of a comparison in turn, so that what disturbs one disturbs the other."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Took(NamedTuple):
    """Seconds of one piece of work."""

    wall: float
    cpu: float
    """Of all threads of the process."""

    def times(self, factor: float) -> "Took":
        """Of so many times the work."""
        return Took(self.wall * factor, self.cpu * factor)

    def plus(self, other: "Took") -> "Took":
        return Took(self.wall + other.wall, self.cpu + other.cpu)


Contender = Callable[[], Took]


def now(device: str = "cpu") -> Took:
    """The clocks, once everything asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return Took(time.perf_counter(), time.process_time())


def since(start: Took, device: str = "cpu") -> Took:
    end = now(device)
    return Took(end.wall - start.wall, end.cpu - start.cpu)


def timed(work: Callable[[], object], device: str = "cpu") -> Contender:
    """A contender that does `work` and says what it took."""

    def contend() -> Took:
        start = now(device)
        work()
        return since(start, device)

    return contend


def interleaved(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[Took]]:
    """What each took in each round; in a round every contender runs once, in order."""
    took: dict[str, list[Took]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name, contend in contenders.items():
            _tell(f"round {number} of {rounds}: {name}")
            took[name].append(contend())
    _tell("")
    return took


def _tell(what: str) -> None:
    """Replace the last line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
