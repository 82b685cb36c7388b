"""Kills a writer before each of its system calls in turn, and halfway through each write.

Command: python -m tests.support.killed_writer WORK ROOT
Each kill point has its own process, forked before any thread starts. Prints the number of kill points until a process
ends by itself, and the exit code of that process.
"""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.dataset  # noqa: F401  before the fork, else every child would load it again

from pipeline.lake import Lake, to_table
from pipeline.lake.local_store import LocalStore
from tests.support import lake_rows

ROOT = Path(__file__).resolve().parents[2]
CALLS = ("fsync", "link", "replace", "open", "close", "unlink", "mkdir", "stat", "scandir")


def moments(work: str, root: Path) -> int:
    """Run `work` once per kill point, each in the folder `root`/NUMBER, and return the number of kill points."""
    words = [sys.executable, "-m", "tests.support.killed_writer", work, str(root)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    number, code = map(int, done.stdout.split())
    assert code == 0
    assert number > 10, "the calls were intercepted"
    return number


def cell():
    return lake_rows.cell(lake_rows.checkpoint(1))


def put(root: Path, moment: int) -> bool:
    return LocalStore(root / str(moment)).put_new("cells/v1/a", bytes(999))


def commit(root: Path, moment: int) -> bool:
    wanted = cell()
    table = to_table(lake_rows.rows(wanted), {})
    return Lake(root / str(moment)).commit(wanted.id, wanted.checkpoint.model_key, table)


def records(root: Path, moment: int) -> bool:
    from pipeline.lake.similarity_files import commit_records

    return commit_records(Lake(root / str(moment)), "0" * 32, "m", "t60-r8-k4", bytes(999))


def compact(root: Path, _: int) -> bool:
    from pipeline.lake.snapshot import compact  # threads of polars do not survive a fork, so it loads in the child

    return compact(Lake(root)) is not None


WORKS: dict[str, Callable[[Path, int], bool]] = {"put": put, "commit": commit, "records": records, "compact": compact}


def arm(moment: int) -> None:
    """Kill this process before its `moment`-th intercepted call."""
    ticks = count()

    def tick() -> None:
        if next(ticks) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            return function(*args, **kwargs)

        return call

    class Torn(io.FileIO):
        def write(self, data: Any) -> int:
            tick()
            half = super().write(bytes(data[: len(data) // 2]))
            tick()
            return half + super().write(bytes(data[half:]))

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        tick()
        new = mode == "xb"
        return io.BufferedWriter(Torn(path, "x")) if new else plain(path, mode, *args, **kwargs)

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    plain, io.open = io.open, opened


def main(work: str, root: str) -> None:
    for moment in range(500):
        child = os.fork()
        if not child:
            arm(moment)
            os._exit(not WORKS[work](Path(root), moment))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            print(moment, code)
            return
    raise RuntimeError(f"{work} has more than 500 kill points")


if __name__ == "__main__":
    main(*sys.argv[1:])
