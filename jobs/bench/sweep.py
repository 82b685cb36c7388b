"""Sweeps: what one costs beside the measuring itself, and how fast the driver is when tasks are nothing."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import mean

import torch

from jobs.bench.comparison import Comparison, Subject, at_least, at_most, compared, within
from jobs.bench.decoder import save_decoder
from jobs.bench.memory import Growth
from jobs.bench.scale import Scale
from jobs.bench.stub import NAP_S, nap, nap_before, nothing, stub_history
from jobs.bench.timing import Took, now, since, timed
from pipeline.lake import Lake, open_lake
from pipeline.spec import Corpus, Local, Resources, Sweep, built_in_recipe
from pipeline.sweep.backend import TaskFunction, TaskFunctions
from pipeline.sweep.driver import Driver
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import BackendName, run
from pipeline.sweep.run_progress import RunProgress
from pipeline.sweep.worker import discard_fetched

ROUNDS = 5
LAYERS, WIDTH, VOCABULARY, TOKENS = 6, 64, 1024, 128
"""Of a small checkpoint: those of the demo."""
BACKENDS: dict[BackendName, tuple[str, float]] = {
    "inline": ("without Ray", 3.0),
    "ray": ("on Ray, with its start and end", 20.0),
}
"""With the seconds that the trivial tasks may take."""
AGAIN_S = 2.0
"""That a rerun with nothing to do may take."""
GROWTH_MB = 50.0
"""That the driver may have more, at any moment of a round, than before it."""
NAPS, SLOTS, AHEAD, BUSY = 16, 2, 2, 0.8
"""Checkpoints that are fetched and measured, on so many slots, so many ahead of each, and the share of the slots' time
that should be measuring."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield from _small_checkpoints(root / "small", scale.checkpoints)
        yield _finished(root / "finished")
        yield from _trivial_tasks(root / "stubs", scale)
        yield _fetched_ahead(stub_history(root / "naps", NAPS))


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


def _finished(root: Path) -> Comparison:
    """The whole command, run once more where nothing is left to do."""
    save_decoder(root / "runs/step0", LAYERS, WIDTH, VOCABULARY, TOKENS, seed=0)
    sweep = root / "sweep.yaml"
    sweep.write_text(
        f"name: bench\nrecipe: quick@1\ncheckpoints: [{{local: {root}/runs}}]\ncorpora: [{{random-uniform: {{}}}}]\n"
    )
    words = [Path(sys.executable).parent / "shapelake", "run", sweep, "--lake", root / "lake", "--backend", "inline"]
    again = timed(lambda: subprocess.run(words, check=True, capture_output=True))
    again()
    subject = Subject("sweep", "rerun of a finished sweep, the whole command", 1)
    return within(subject, [again() for _ in range(ROUNDS)], AGAIN_S)


def _swept(root: Path) -> tuple[Took, Took]:
    """The whole of a run into a new lake, and what its rows say of loading, forwarding and measuring."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        took, _ = _ran(root, lake, "inline")
        cells = open_lake(lake.uri).query_frame("SELECT sum(load_s + total_s) AS inside FROM cells")
    return took, Took(cells["inside"][0], cells["inside"][0])


def _ran(
    root: Path, lake: Lake, backend: BackendName, work: TaskFunction | None = None, slots: int = 1
) -> tuple[Took, float]:
    """Seconds and MB of a run of everything in a history; planning, which hashes the files the first time, is not part
    of it."""
    plan = make_plan(_sweep(root, slots), lake)
    with Growth() as growth:
        start = now()
        report = run(plan, lake, backend, work)
        took = since(start)
    assert report.committed == len(plan.todo), report
    return took, growth.mb


def _ran_trivial(root: Path, backend: BackendName) -> tuple[Took, float]:
    """A run of a history of stubs into a new lake."""
    with tempfile.TemporaryDirectory() as folder:
        return _ran(root, Lake(folder), backend, nothing, slots=os.cpu_count() or 1)


def _sweep(root: Path, slots: int) -> Sweep:
    return Sweep(
        name="bench",
        checkpoints=(Local(local=str(root)),),
        corpora=(Corpus(kind="random-uniform"),),
        recipe=built_in_recipe("quick@1"),
        resources=Resources(slots=slots, cpus=slots * torch.get_num_threads()),
    )


def _trivial_tasks(root: Path, scale: Scale) -> Iterator[Comparison]:
    _ran_trivial(stub_history(root / "few", 4), "ray")  # after it Ray is imported and has been started once
    many, least = stub_history(root / "many", scale.tasks), at_most(1.0).only_if(scale.full)
    for backend, (what, limit_s) in BACKENDS.items():
        took, mb = zip(*(_ran_trivial(many, backend) for _ in range(ROUNDS)), strict=True)
        subject = Subject("sweep", f"trivial tasks through the driver, {what}", scale.tasks)
        yield within(subject, took, limit_s, promised=scale.full)
        subject = Subject("sweep", f"memory that the driver takes for them, {what}", scale.tasks)
        yield Comparison(subject, f"a limit of {GROWTH_MB:g} MB", "MB", mb, [GROWTH_MB] * ROUNDS, least)


def _fetched_ahead(root: Path) -> Comparison:
    """How much of their time the slots measure where fetching takes as long as measuring, Ray having its processes."""
    from pipeline.sweep.ray_backend import RayBackend

    sweep = _sweep(root, SLOTS)
    with tempfile.TemporaryDirectory() as folder:
        plan, lake = make_plan(sweep, Lake(folder)), Lake(folder)
        with closing(RayBackend(TaskFunctions(nap_before, nap, discard_fetched), sweep.resources, AHEAD)) as backend:
            Driver(plan, lake, backend, "first", RunProgress(NAPS)).run()
            start, waited_s = now(), backend.gpu_wait_s
            report = Driver(plan, lake, backend, "second", RunProgress(NAPS)).run()
            slots_s, waited_s = SLOTS * since(start).wall, backend.gpu_wait_s - waited_s
    assert report.committed == NAPS, report
    subject = Subject("sweep", f"{SLOTS} slots, {NAP_S:g} s to fetch and {NAP_S:g} s to measure each, whole", NAPS)
    note = f"{waited_s:.1f} s free for want of files"
    return Comparison(subject, "measuring", "s", [slots_s], [NAPS * NAP_S], at_least(BUSY), note)
