"""Kill workers, drivers and nodes of a sweep at random until it is done, then prove that nothing was lost.

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
from tests.chaos import victims
from tests.chaos.cluster import ROOT, Nodes, nodes
from tests.chaos.proof import Proof, prove

KILLS = ("worker", "driver", "node")
POLL_S = 0.05
LAST_KILL = 0.9
"""Share of the cells after which nothing is killed any more."""
LEFT_ALONE = 4
"""Runs after the last kill within which all must be done: an unforeseen exception is tried once in each of three."""
STARTS = 60
"""Drivers after which something else than a kill must be ending them."""


class Chaos:
    """One sweep under attack."""

    def __init__(self, folder: Path, cluster: Nodes, rng: random.Random) -> None:
        self.root, self.lake = folder / "runs", Lake(folder / "lake")
        self.cluster, self.rng = cluster, rng
        self.wanted = len(self.plan().cells)
        self.log = (folder / "drivers.log").open("w")
        self.starts, self.since = 0, time.monotonic()
        self.killed: Counter[str] = Counter()
        """What was killed in fact: a kill that falls due when all is done has no victim."""
        self.driver = self._start()

    def rage(self, kills: list[str]) -> None:
        """Kill one after another, each when a random share of the cells is done."""
        at = sorted(self.rng.uniform(0, LAST_KILL * self.wanted) for _ in kills)
        for done, kill in zip(at, self.rng.sample(kills, len(kills)), strict=True):
            while self._done() < done:
                self._keep_running()
            time.sleep(self.rng.uniform(0, 0.3))
            self._say(f"kill a {kill}")
            self.killed[kill] += getattr(self, f"_kill_{kill}")()

    def finish(self) -> None:
        """Let it run until nothing is left to do.

        Raises: RuntimeError if that takes more runs than it may.
        """
        for _ in range(LEFT_ALONE):
            self.driver.wait()
            if not self.plan().todo:
                return
            self.driver = self._start()
        raise RuntimeError(f"{len(self.plan().todo)} cells are still to run after {LEFT_ALONE} quiet runs")

    def plan(self) -> Plan:
        return make_plan(victims.sweep(self.root, self.cluster.address), self.lake)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.driver.kill()
        self.driver.wait()
        self.log.close()

    def _say(self, what: str) -> None:
        """Among what the drivers say."""
        print(f"chaos: {time.monotonic() - self.since:.1f} s, {self._done()} cells: {what}", file=self.log, flush=True)

    def _start(self) -> subprocess.Popen[bytes]:
        if self.starts == STARTS:
            raise RuntimeError(f"{STARTS} drivers have ended and {len(self.plan().todo)} cells are still to run")
        self.starts += 1
        self._say(f"driver {self.starts}")
        words = [sys.executable, "-m", "tests.chaos.drive", str(self.root), self.lake.uri, self.cluster.address]
        return subprocess.Popen(words, cwd=ROOT, stdout=self.log, stderr=self.log)

    def _keep_running(self) -> None:
        time.sleep(POLL_S)
        if self.driver.poll() is not None:
            self.driver = self._start()

    def _done(self) -> int:
        return len(self.lake.committed_cell_ids()) + len(self.lake.quarantined_cell_ids())

    def _kill_worker(self) -> bool:
        """Of those that are measuring just now; False if all is done."""
        while self._done() < self.wanted:
            notes = sorted((self.root.parent / victims.RUNNING).iterdir())
            for note in self.rng.sample(notes, len(notes)):
                if _killed(int(note.name)):
                    return True
                note.unlink(missing_ok=True)
            self._keep_running()
        return False

    def _kill_driver(self) -> bool:
        """False if it has nothing left to do."""
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


def _killed(pid: int) -> bool:
    """Whether it was a worker of Ray and is dead now: notes outlive their processes, and numbers are used again."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            return False
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def main(words: list[str] | None = None) -> int:
    """0 if the proof holds; the folder is kept if it does not."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--tasks", type=int, default=400)
    for kill in KILLS:
        parser.add_argument(f"--{kill}-kills", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the folder though the proof holds")
    options = parser.parse_args(words)
    kills = [kill for kill in KILLS for _ in range(getattr(options, f"{kill}_kills"))]
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    started = time.monotonic()
    chaos, proof = attack(folder, options.tasks, kills, options.nodes, random.Random(options.seed))
    figures = [f"{name} {value}" for name, value in proof._asdict().items() if isinstance(value, int)]
    killed = ", ".join(f"{chaos.killed[kill]} {kill}" for kill in KILLS)
    strikes = " ".join(f"{name}:{n}" for name, n in sorted(proof.strikes.items()))
    print(
        f"{'holds' if proof.holds else f'FAILS, see {folder}'}: {options.tasks} tasks, {', '.join(figures)}; killed "
        f"{killed}; {chaos.starts} drivers; strikes {strikes}; {time.monotonic() - started:.0f} s; seed {options.seed}"
    )
    if proof.holds and not options.keep:
        shutil.rmtree(folder)
    return not proof.holds


def attack(folder: Path, tasks: int, kills: list[str], n_nodes: int, rng: random.Random) -> tuple[Chaos, Proof]:
    """What was done, and the proof."""
    bad = victims.history(folder / "runs", tasks, rng)
    with nodes(n_nodes, folder) as cluster:
        chaos = Chaos(folder, cluster, rng)
        try:
            chaos.rage(kills)
            chaos.finish()
        finally:
            chaos.close()
        return chaos, prove(chaos.plan(), chaos.lake, bad)


if __name__ == "__main__":
    sys.exit(main())
