"""Kill workers, drivers and nodes of a sweep at random until it is complete, then check that no cell was lost.

Example: python -m tests.chaos --tasks 400 --worker-kills 25 --driver-kills 8 --node-kills 3 --seed 0
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

from pipeline.lake import Lake
from pipeline.sweep.plan import Plan, make_plan
from tests.chaos import stub_sweep
from tests.chaos.cluster import ROOT, Nodes, nodes
from tests.chaos.invariants import Invariants, check_invariants

KILLS = ("worker", "driver", "node")
POLL_S = 0.05
LAST_KILL = 0.9
"""Share of completed cells after which nothing is killed any more."""
QUIET_RUNS = 4
"""Runs after the last kill within which all cells must be done; an unexpected exception is retried in three runs."""
MAX_STARTS = 60
"""Limit on driver starts: more mean that drivers end for a reason other than a kill."""


class Chaos:
    """Sweep whose processes are killed at random."""

    def __init__(self, folder: Path, cluster: Nodes, rng: random.Random) -> None:
        self.root, self.lake = folder / "runs", Lake(folder / "lake")
        self.cluster, self.rng = cluster, rng
        self.wanted = len(self.plan().cells)
        self.log = (folder / "drivers.log").open("w")
        self.starts, self.since = 0, time.monotonic()
        self.killed: Counter[str] = Counter()
        """Processes actually killed; a kill that is due after the last cell finds nothing to kill."""
        self.driver = self._start()

    def perform_kills(self, kills: list[str]) -> None:
        """Perform the kills one by one, each when a random share of the cells is done."""
        at = sorted(self.rng.uniform(0, LAST_KILL * self.wanted) for _ in kills)
        for done, kill in zip(at, self.rng.sample(kills, len(kills)), strict=True):
            while self._done() < done:
                self._keep_running()
            time.sleep(self.rng.uniform(0, 0.3))
            self._log_line(f"kill a {kill}")
            self.killed[kill] += getattr(self, f"_kill_{kill}")()

    def finish(self) -> None:
        """Run until nothing is left to do.

        Raises: RuntimeError after QUIET_RUNS runs.
        """
        for _ in range(QUIET_RUNS):
            self.driver.wait()
            if not self.plan().todo:
                return
            self.driver = self._start()
        raise RuntimeError(f"{len(self.plan().todo)} cells are left after {QUIET_RUNS} runs without a kill")

    def plan(self) -> Plan:
        return make_plan(stub_sweep.sweep(self.root, self.cluster.address), self.lake)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.driver.kill()
        self.driver.wait()
        self.log.close()

    def _log_line(self, text: str) -> None:
        """Write a line between the output of the drivers."""
        print(f"chaos: {time.monotonic() - self.since:.1f} s, {self._done()} cells: {text}", file=self.log, flush=True)

    def _start(self) -> subprocess.Popen[bytes]:
        if self.starts == MAX_STARTS:
            raise RuntimeError(f"{MAX_STARTS} drivers have ended and {len(self.plan().todo)} cells are left")
        self.starts += 1
        self._log_line(f"driver {self.starts}")
        command = [sys.executable, "-m", "tests.chaos.driver_process"]
        command += [str(self.root), self.lake.uri, self.cluster.address]
        return subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log)

    def _keep_running(self) -> None:
        time.sleep(POLL_S)
        if self.driver.poll() is not None:
            self.driver = self._start()

    def _done(self) -> int:
        return len(self.lake.committed_cell_ids()) + len(self.lake.quarantined_cell_ids())

    def _kill_worker(self) -> bool:
        """Kill a worker that is measuring; return False if all cells are done."""
        while self._done() < self.wanted:
            markers = sorted((self.root.parent / stub_sweep.RUNNING).iterdir())
            for marker in self.rng.sample(markers, len(markers)):
                if _kill_ray_worker(int(marker.name)):
                    return True
                marker.unlink(missing_ok=True)
            self._keep_running()
        return False

    def _kill_driver(self) -> bool:
        """Kill and restart the driver; return False if it has nothing left to do."""
        if self._done() >= self.wanted:
            return False
        self._keep_running()
        self.driver.send_signal(self.rng.choice([signal.SIGKILL, signal.SIGTERM]))
        self.driver.wait()
        self.driver = self._start()
        return True

    def _kill_node(self) -> bool:
        self.cluster.lose(self.rng)
        return True


def _kill_ray_worker(pid: int) -> bool:
    """Kill a Ray worker; return False if the process is gone or, after reuse of its id, another program."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            return False
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def main(words: list[str] | None = None) -> int:
    """Return 0 if the invariants hold; otherwise keep the folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=400, help="number of checkpoints")
    for kill in KILLS:
        parser.add_argument(f"--{kill}-kills", type=int, default=0, help=f"number of {kill}s to kill")
    parser.add_argument("--nodes", type=int, default=2, help="number of worker nodes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills")
    parser.add_argument("--keep", action="store_true", help="keep the folder even if the invariants hold")
    options = parser.parse_args(words)
    kills = [kill for kill in KILLS for _ in range(getattr(options, f"{kill}_kills"))]
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    started = time.monotonic()
    chaos, invariants = attack(folder, options.tasks, kills, options.nodes, random.Random(options.seed))
    figures = [f"{name} {value}" for name, value in invariants._asdict().items() if isinstance(value, int)]
    killed = ", ".join(f"{chaos.killed[kill]} {kill}" for kill in KILLS)
    failures = " ".join(f"{name}:{n}" for name, n in sorted(invariants.failures.items()))
    verdict = "holds" if invariants.holds else f"FAILS, see {folder}"
    took_s = time.monotonic() - started
    print(
        f"{verdict}: {options.tasks} tasks, {', '.join(figures)}; killed {killed}; {chaos.starts} drivers; "
        f"failures {failures}; {took_s:.0f} s; seed {options.seed}"
    )
    if invariants.holds and not options.keep:
        shutil.rmtree(folder)
    return not invariants.holds


def attack(folder: Path, tasks: int, kills: list[str], n_nodes: int, rng: random.Random) -> tuple[Chaos, Invariants]:
    """Run a sweep under random kills; return it with the invariants of its lake."""
    bad = stub_sweep.history(folder / "runs", tasks, rng)
    with nodes(n_nodes, folder) as cluster:
        chaos = Chaos(folder, cluster, rng)
        try:
            chaos.perform_kills(kills)
            chaos.finish()
        finally:
            chaos.close()
        return chaos, check_invariants(chaos.plan(), chaos.lake, bad)


if __name__ == "__main__":
    sys.exit(main())
