"""Growth of this process's resident memory during a piece of work."""

import os
from pathlib import Path
from threading import Event, Thread

EVERY_S = 0.1
"""Sampling interval in seconds."""


class Growth:
    """Context manager; `mb` is the largest growth of resident memory inside the block, sampled every `EVERY_S`."""

    def __init__(self) -> None:
        self.mb = 0.0
        self._before = resident_mb()
        self._ended = Event()
        self._sampler = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Growth":
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(EVERY_S)
            self.mb = max(self.mb, resident_mb() - self._before)


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
