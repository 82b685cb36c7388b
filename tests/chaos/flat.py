"""Leak check of a long sweep: memory, open files, scratch and Ray's logs do not grow after the first 200 cells.

Tiny checkpoints of a local fake Hub are fetched, measured by a stub and committed through local Ray; the driver is
killed and restarted in the middle. Example: python -m tests.chaos.flat --cells 5000
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.cache import folder_bytes
from pipeline.catalog.fetch import fetch_temporarily
from pipeline.lake import Lake
from pipeline.spec import Corpus, Hub, Resources, Sweep
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task
from tests.chaos.cluster import ROOT, environment
from tests.support import stub_checkpoints as stub
from tests.support.fake_hub import FakeHub

CORPORA = 25
WARM = 200
"""Cells before the first measurement of resources."""
SLACK = 1.1
"""Largest accepted growth factor."""
WEIGHTS = 2**16
SLOTS, PREFETCH = 2, 2
QUIET = {"RAY_event_stats_print_interval_ms": "0"}
"""Turns off Ray's statistics log, which grows by 0.1 MB a minute regardless of the cells."""


class Figures(NamedTuple):
    """Resources of a sweep at one moment."""

    rss_mb: float
    """Resident memory of the driver."""
    files: int
    """Open files of the driver."""
    scratch_mb: float
    ray_mb: float
    """Size of Ray's temporary folder, mostly logs."""

    @classmethod
    def of(cls, pid: int, folder: Path) -> "Figures":
        status = Path(f"/proc/{pid}/status").read_text().split()
        return cls(
            rss_mb=int(status[status.index("VmRSS:") + 1]) / 1024,
            files=len(os.listdir(f"/proc/{pid}/fd")),
            scratch_mb=folder_bytes(folder / "scratch") / 2**20,
            ray_mb=folder_bytes(folder / "ray") / 2**20,
        )


VARIATION = Figures(rss_mb=0, files=0, scratch_mb=SLOTS * (1 + PREFETCH) * WEIGHTS / 2**20, ray_mb=0.1)
"""Normal variation of each figure. Scratch holds between nothing and all prefetched checkpoints. Ray's folder starts
below 0.1 MB and gains about ten bytes per cell; with `--gpus` (a process per task) 7.5 kB per task, which is growth.
"""


def main() -> int:
    """Return 0 if no figure has grown by more than a tenth and all cells are committed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.flat", description=__doc__)
    parser.add_argument("--cells", type=int, default=5000, help="number of cells")
    parser.add_argument("--gpus", type=int, default=0, help="simulated GPUs: each task then has its own process")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the driver
    folder = Path(tempfile.mkdtemp(prefix="flat-"))
    (folder / "ray").mkdir()
    with FakeHub() as hub:
        os.environ.update(environment(folder) | hub.environment(folder) | QUIET)
        (folder / "sweep.json").write_text(_sweep(folder, hub, options.cells, options.gpus).model_dump_json())
        first = _run_driver(folder, range(WARM, options.cells // 2, options.cells // 10), kill=True)
        at = range(options.cells // 2 + WARM, options.cells - CORPORA, options.cells // 10)
        second = _run_driver(folder, [*at, options.cells - CORPORA], kill=False)
    done = len(Lake(folder / "lake").committed_cell_ids())
    grown = {name for figures in (first, second) for name in _grown(figures[0][1], figures[-1][1])}
    grown |= {"files left in scratch"} if folder_bytes(folder / "scratch") >= WEIGHTS else set()
    print(f"{'grown: ' + ', '.join(sorted(grown)) if grown else 'flat'}; {done} of {options.cells} cells; {folder}")
    if not grown:
        shutil.rmtree(folder)
    return bool(grown) or done != options.cells


def _grown(start: Figures, end: Figures) -> list[str]:
    """Return the figures that grew by more than a tenth plus their normal variation."""
    limits = Figures(*(SLACK * value + variation for value, variation in zip(start, VARIATION, strict=True)))
    return [name for name in Figures._fields if getattr(end, name) > getattr(limits, name)]


def _sweep(folder: Path, hub: FakeHub, cells: int, gpus: int) -> Sweep:
    repo = hub.repo("org/tiny")
    for step in range(cells // CORPORA):
        weights = f"weights {step}".encode().ljust(WEIGHTS, b".")
        config = json.dumps(stub.CONFIG).encode()
        repo.commit({"config.json": config, "model.safetensors": weights, "tokenizer.json": b"{}"}, f"step{step}")
    return Sweep(
        name="flat",
        checkpoints=(Hub(hub=repo.id),),
        corpora=tuple(_texts(folder)),
        recipe="quick@1",  # type: ignore[arg-type]
        resources=Resources(cpus=SLOTS, slots=SLOTS, gpus=gpus, prefetch=PREFETCH),
    )


def _texts(folder: Path) -> Iterator[Corpus]:
    for index in range(CORPORA):
        path = folder / f"text{index}.txt"
        path.write_text(f"text {index}")
        yield Corpus(kind="text", path=str(path))


def _run_driver(folder: Path, at: Iterable[int], kill: bool) -> list[tuple[int, Figures]]:
    """Run a driver; return its figures at each number of committed cells in `at`."""
    with (folder / "driver.log").open("a") as log:
        command = [sys.executable, "-m", "tests.chaos.flat", "--drive", str(folder)]
        driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            figures = [_wait_for_cells(folder, driver, cells) for cells in at]
            if not kill:
                driver.wait()
        finally:
            driver.kill()
            driver.wait()
    return figures


def _wait_for_cells(folder: Path, driver: "subprocess.Popen[bytes]", cells: int) -> tuple[int, Figures]:
    """Wait for `cells` committed cells; return their actual number and the driver's figures."""
    lake = Lake(folder / "lake")
    while (done := len(lake.committed_cell_ids())) < cells:
        if driver.poll() is not None:
            raise RuntimeError(f"the driver ended at {done} cells, see {folder}")
        time.sleep(0.5)
    figures = Figures.of(driver.pid, folder)
    print(f"{done:6d} cells: " + ", ".join(f"{name} {n:.4g}" for name, n in figures._asdict().items()), flush=True)
    return done, figures


def _drive(folder: Path) -> int:
    sweep = Sweep.model_validate_json((folder / "sweep.json").read_text())
    lake = Lake(folder / "lake")
    return run(make_plan(sweep, lake), lake, "ray", work).exit_code


def work(task: Task) -> list[Outcome]:
    """Fetch and commit without measuring."""
    with fetch_temporarily(task.checkpoint, task.run_id, task.resources.scratch_bytes) as checkpoint:
        assert (Path(checkpoint.path) / "model.safetensors").stat().st_size == WEIGHTS
        return [stub.commit(task, cell) for cell in task.cells]


if __name__ == "__main__":
    from tests.chaos import flat  # so that workers can unpickle `work` by its module name

    sys.exit(flat._drive(Path(sys.argv[2])) if sys.argv[1:2] == ["--drive"] else flat.main())
