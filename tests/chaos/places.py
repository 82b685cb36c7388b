"""Break what a sweep stands on: Ray's processes, the driver, the files of checkpoints, the lake's folder.

Each driver has its own local Ray. At the end no cell is missing, doubled, wrongly condemned or has a wrong number.

Example: python -m tests.chaos.places --tasks 400 --seed 0
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.lake import Lake, open_lake
from pipeline.lake.verify import verify_lake
from pipeline.sweep.plan import make_plan
from tests.chaos.place_driver import WEIGHTS, number_of, sweep
from tests.support import stub_checkpoints as stub

ROOT = Path(__file__).resolve().parent.parent.parent
DISASTERS = ("raylet", "gcs_server", "sigterm", "sigterm", "overwrite", "overwrite", "three drivers", "delete lake")
EXIT_CODES = {"raylet": {0, 1}, "gcs_server": {0, 1}, "sigterm": {0, 143, -signal.SIGTERM}, "delete lake": {0, 1}}
"""Exit codes that a driver may have after a disaster: 0 if it was done before, -15 before Python has a handler."""
QUIET_RUNS = 4
OVERWRITES = 10


class Verdict(NamedTuple):
    """Violations, by kind; all zero if the sweep is sound."""

    missing: int
    doubled: int
    condemned: int
    wrong: int
    unreadable: int
    wrong_exits: int
    tracebacks: int


class Places:
    """A sweep on local Ray whose surroundings are broken at random."""

    def __init__(self, folder: Path, tasks: int, rng: random.Random) -> None:
        self.root, self.lake, self.rng = folder / "runs", Lake(folder / "lake"), rng
        self.log_path = folder / "drivers.log"
        self.log = self.log_path.open("w")
        self.tasks, self.happened = tasks, Counter[str]()
        self.wrong_exits: list[tuple[str, int]] = []
        stub.history(self.root, list(range(tasks)))
        self.numbers: dict[str, float] = {}
        """Number of every content that any checkpoint has had, by weights digest."""
        self._note_contents()

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.chaos.place_driver", str(self.root), self.lake.uri]
        return subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log)

    def strike(self, disaster: str) -> None:
        """Run one driver into a disaster and wait for its end."""
        driver, since = self.start(), self._committed()
        if disaster == "sigterm":
            time.sleep(self.rng.uniform(0.0, 8.0))
            driver.send_signal(signal.SIGTERM)
        else:
            self._wait_for(driver, since + self.rng.randint(3, 20))
            getattr(self, f"_{disaster.replace(' ', '_')}")(driver)
        code = driver.wait(timeout=180)
        self.happened[disaster] += 1
        if code not in EXIT_CODES.get(disaster, {0, 1}):
            self.wrong_exits.append((disaster, code))

    def finish(self) -> int:
        """Run until nothing is left; return the exit code of the last run."""
        for _ in range(QUIET_RUNS):
            code = self.start().wait(timeout=300)
            if not make_plan(sweep(self.root), self.lake).todo:
                break
        return code

    def check(self, last_code: int) -> Verdict:
        plan = make_plan(sweep(self.root), self.lake)
        rows = open_lake(self.lake.uri).query_frame("select cell_id, layer, weights_digest, id_twonn from layers")
        wrong = [r for r in rows.iter_rows(named=True) if r["id_twonn"] != self.numbers[r["weights_digest"]]]
        return Verdict(
            missing=len(plan.todo),
            doubled=rows.height - rows.select("cell_id", "layer").unique().height,
            condemned=len(self.lake.quarantined_cell_ids()),
            wrong=len(wrong),
            unreadable=len(verify_lake(self.lake)),
            wrong_exits=len(self.wrong_exits) + (last_code != 0),
            tracebacks=self.log_path.read_text().count("Traceback"),
        )

    def _raylet(self, driver: "subprocess.Popen[bytes]") -> None:
        self._kill_child(driver, "raylet")

    def _gcs_server(self, driver: "subprocess.Popen[bytes]") -> None:
        self._kill_child(driver, "gcs_server")

    def _overwrite(self, driver: "subprocess.Popen[bytes]") -> None:
        """Write new weights over those of some checkpoints, in place, while they may be measured."""
        for step in self.rng.sample(range(self.tasks), min(OVERWRITES, self.tasks)):
            path = self.root / f"step{step}" / WEIGHTS
            new = f"{self.rng.getrandbits(64):016x}".encode()[: path.stat().st_size].ljust(path.stat().st_size, b".")
            self.numbers_of_next(step, new)
            with path.open("r+b") as file:
                file.write(new)
            time.sleep(self.rng.uniform(0, 0.1))

    def _three_drivers(self, driver: "subprocess.Popen[bytes]") -> None:
        for other in [self.start(), self.start()]:
            if (code := other.wait(timeout=180)) != 0:
                self.wrong_exits.append(("three drivers", code))

    def _delete_lake(self, driver: "subprocess.Popen[bytes]") -> None:
        shutil.rmtree(self.lake.uri, ignore_errors=True)

    def numbers_of_next(self, step: int, weights: bytes) -> None:
        """Note the number of weights that a checkpoint will have; its digest needs a copy of its folder."""
        folder = self.root / f"step{step}"
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder, Path(copy) / "x", dirs_exist_ok=True)
            (Path(copy) / "x" / WEIGHTS).write_bytes(weights)
            self.numbers[_weights_digest(Path(copy) / "x")] = number_of(weights)

    def _note_contents(self) -> None:
        for step in range(self.tasks):
            folder = self.root / f"step{step}"
            self.numbers[_weights_digest(folder)] = number_of((folder / WEIGHTS).read_bytes())

    def _committed(self) -> int:
        return len(self.lake.cell_files())

    def _wait_for(self, driver: "subprocess.Popen[bytes]", cells: int) -> None:
        while driver.poll() is None and self._committed() < cells:
            time.sleep(0.05)

    def _kill_child(self, driver: "subprocess.Popen[bytes]", name: str) -> None:
        listed = subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]
        for pid, parent, command in (line.split(None, 2) for line in listed):
            if int(parent) == driver.pid and command.split()[0].endswith(f"/{name}"):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def _weights_digest(folder: Path) -> str:
    from pipeline.catalog.local_histories import inspect_checkpoint

    return inspect_checkpoint(folder).weights_digest


def attack(folder: Path, tasks: int, rounds: int, rng: random.Random) -> tuple[Places, Verdict]:
    """Strike `rounds` times with every disaster, in random order; deletion of the lake comes first."""
    os.environ.update(RAY_AUTH_MODE="token", SHAPELAKE_CACHE=str(folder / "cache"), RAY_USAGE_STATS_ENABLED="0")
    places = Places(folder, tasks, rng)
    disasters = list(DISASTERS[:-1]) * rounds
    for disaster in ("delete lake", *rng.sample(disasters, len(disasters))):
        places.strike(disaster)
    verdict = places.check(places.finish())
    places.log.close()
    return places, verdict


def main() -> int:
    """Return 0 if the sweep is sound; otherwise keep the folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.places", description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=400, help="number of checkpoints")
    parser.add_argument("--rounds", type=int, default=2, help="strikes of each disaster")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, started = Path(tempfile.mkdtemp(prefix="places-")), time.monotonic()
    places, verdict = attack(folder, options.tasks, options.rounds, random.Random(options.seed))
    happened = ", ".join(f"{n} {name}" for name, n in sorted(places.happened.items()))
    sound = not any(verdict)
    head = "holds" if sound else f"FAILS, see {folder}"
    exits, took_s = places.wrong_exits or "exits right", time.monotonic() - started
    print(f"{head}: {options.tasks} tasks, {verdict._asdict()}, {happened}; {exits}")
    print(f"{took_s:.0f} s; seed {options.seed}")
    if sound:
        shutil.rmtree(folder)
    return not sound


if __name__ == "__main__":
    sys.exit(main())
