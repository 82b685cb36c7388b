"""Memory: by how much this process grows while it does a piece of work."""

import os
from pathlib import Path
from threading import Event, Thread

EVERY_S = 0.1


class Growth:
    """A block of work, in `mb` how much more resident memory the process had at any moment of it than before; looked at
    ten times a second."""

    def __init__(self) -> None:
        self.mb = 0.0
        self._before = resident_mb()
        self._ended = Event()
        self._looking = Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Growth":
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._looking.join()

    def _look(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(EVERY_S)
            self.mb = max(self.mb, resident_mb() - self._before)


def resident_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
