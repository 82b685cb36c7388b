"""Interleaved timing of both sides of a comparison, so that a disturbance affects both."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Took(NamedTuple):
    """Seconds taken by one piece of work."""

    wall: float
    cpu: float
    """CPU seconds of all threads of the process."""

    def times(self, factor: float) -> "Took":
        """Return the time scaled to `factor` times the work."""
        return Took(self.wall * factor, self.cpu * factor)

    def plus(self, other: "Took") -> "Took":
        return Took(self.wall + other.wall, self.cpu + other.cpu)


Contender = Callable[[], Took]


def now(device: str = "cpu") -> Took:
    """Read the clocks after all queued device work has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return Took(time.perf_counter(), time.process_time())


def since(start: Took, device: str = "cpu") -> Took:
    end = now(device)
    return Took(end.wall - start.wall, end.cpu - start.cpu)


def timed(work: Callable[[], object], device: str = "cpu") -> Contender:
    """Return a contender that runs `work` and returns its time."""

    def contend() -> Took:
        start = now(device)
        work()
        return since(start, device)

    return contend


def interleaved(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[Took]]:
    """Run every contender once per round, in order; return the times of each contender, one per round."""
    took: dict[str, list[Took]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name, contender in contenders.items():
            _show_status(f"round {number} of {rounds}: {name}")
            took[name].append(contender())
    _show_status("")
    return took


def _show_status(text: str) -> None:
    """Replace the status line of a terminal; no output elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
