"""Sweeps: what one costs beside the measuring itself, and how fast the driver is when tasks are nothing."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import torch

from jobs.bench.comparison import Comparison, Subject, at_most, compared, within
from jobs.bench.decoder import save_decoder
from jobs.bench.scale import Scale
from jobs.bench.stub import nothing, stub_history
from jobs.bench.timing import Took, now, since, timed
from pipeline.lake import Lake
from pipeline.lake import open as open_lake
from pipeline.spec import Corpus, Local, Resources, Sweep, built_in
from pipeline.sweep.backend import Work
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import BackendName, run

ROUNDS = 5
LAYERS, WIDTH, VOCABULARY, TOKENS = 6, 64, 1024, 128
"""Of a small checkpoint: those of the demo."""
BACKENDS: dict[BackendName, tuple[str, float]] = {
    "inline": ("without Ray", 3.0),
    "ray": ("on Ray, its start included", 20.0),
}
"""With the seconds that the trivial tasks may take."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield from _small_checkpoints(root / "small", scale.checkpoints)
        yield from _trivial_tasks(root / "stubs", scale)


def _small_checkpoints(root: Path, n: int) -> Iterator[Comparison]:
    for step in range(n):
        save_decoder(root / f"step{step}", LAYERS, WIDTH, VOCABULARY, TOKENS, seed=step)
    found = [_swept(root) for _ in range(ROUNDS)]
    whole, inside = ([one[side] for one in found] for side in (0, 1))
    subject = Subject("sweep", "sweep of small checkpoints, inline, whole", n, WIDTH)
    yield compared(subject, whole, "load + forward + metrics", inside, at_most(1.05), "s")
    cold = timed(lambda: subprocess.run([sys.executable, "-c", "import pipeline.measure"], check=True))
    one = mean(took.wall for took in inside) / n
    started = Subject("sweep", "cold start of a task's process", 1)
    yield compared(
        started, [cold() for _ in range(ROUNDS)], "one small checkpoint", [Took(one, one)] * ROUNDS, at_most(), "s"
    )


def _swept(root: Path) -> tuple[Took, Took]:
    """The whole of a run into a new lake, and what its rows say of loading, forwarding and measuring."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        took = _ran(root, lake, "inline")
        cells = open_lake(lake.uri).frame("SELECT sum(load_s + total_s) AS inside FROM cells")
    return took, Took(cells["inside"][0], cells["inside"][0])


def _ran(root: Path, lake: Lake, backend: BackendName, work: Work | None = None, slots: int = 1) -> Took:
    """A run of everything in a history; planning, which hashes the files the first time, is not part of it."""
    sweep = Sweep(
        name="bench",
        checkpoints=(Local(local=str(root)),),
        corpora=(Corpus(kind="random-uniform"),),
        recipe=built_in("quick@1"),
        resources=Resources(slots=slots, cpus=slots * torch.get_num_threads()),
    )
    plan = make_plan(sweep, lake)
    start = now()
    report = run(plan, lake, backend, work)
    took = since(start)
    assert report.committed == len(plan.todo), report
    return took


def _trivial_tasks(root: Path, scale: Scale) -> Iterator[Comparison]:
    stub_history(root, scale.tasks)
    for backend, (what, limit_s) in BACKENDS.items():
        took = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                took.append(_ran(root, Lake(folder), backend, nothing, slots=os.cpu_count() or 1))
        subject = Subject("sweep", f"trivial tasks through the driver, {what}", scale.tasks)
        yield within(subject, took, limit_s, promised=scale.full)
