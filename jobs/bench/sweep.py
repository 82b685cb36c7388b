"""Sweep overhead relative to measuring, and driver throughput with trivial tasks."""

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
"""Shape of a small checkpoint, equal to the demo's."""
BACKENDS: dict[BackendName, tuple[str, float]] = {
    "inline": ("without Ray", 3.0),
    "ray": ("on Ray, start-up and shutdown included", 20.0),
}
"""Description of each backend and its limit in seconds for the trivial tasks."""
RERUN_S = 2.0
"""Limit in seconds for a rerun with nothing to do."""
GROWTH_MB = 50.0
"""Limit for the driver's peak memory growth during a round."""
NAPS, SLOTS, AHEAD, BUSY = 16, 2, 2, 0.8
"""Checkpoints, slots, checkpoints prefetched per slot, and the target share of slot time spent measuring."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield from _small_checkpoints(root / "small", scale.checkpoints)
        yield _time_rerun(root / "finished")
        yield from _trivial_tasks(root / "stubs", scale)
        yield _fetched_ahead(stub_history(root / "naps", NAPS))


def _small_checkpoints(root: Path, n: int) -> Iterator[Comparison]:
    for step in range(n):
        save_decoder(root / f"step{step}", LAYERS, WIDTH, VOCABULARY, TOKENS, seed=step)
    pairs = [_time_sweep(root) for _ in range(ROUNDS)]
    total, inside = zip(*pairs, strict=True)
    subject = Subject("sweep", "sweep of small checkpoints, inline, total", n, WIDTH)
    yield compared(subject, total, "load + forward + metrics", inside, at_most(1.05), "s")
    cold = timed(lambda: subprocess.run([sys.executable, "-c", "import pipeline.measure"], check=True))
    one = mean(took.wall for took in inside) / n
    start = Subject("sweep", "cold start of a worker process", 1)
    yield compared(
        start, [cold() for _ in range(ROUNDS)], "one small checkpoint", [Took(one, one)] * ROUNDS, at_most(), "s"
    )


def _time_rerun(root: Path) -> Comparison:
    """Time the full command when nothing is left to do."""
    save_decoder(root / "runs/step0", LAYERS, WIDTH, VOCABULARY, TOKENS, seed=0)
    sweep = root / "sweep.yaml"
    sweep.write_text(
        f"name: bench\nrecipe: quick@1\ncheckpoints: [{{local: {root}/runs}}]\ncorpora: [{{random-uniform: {{}}}}]\n"
    )
    command = [Path(sys.executable).parent / "shapelake", "run", sweep, "--lake", root / "lake", "--backend", "inline"]
    rerun = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    rerun()
    subject = Subject("sweep", "rerun of a finished sweep, full command", 1)
    return within(subject, [rerun() for _ in range(ROUNDS)], RERUN_S)


def _time_sweep(root: Path) -> tuple[Took, Took]:
    """Time a run into a new lake; also return the time that its rows record for loading, forwarding and measuring."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        took, _ = _time_run(root, lake, "inline")
        cells = open_lake(lake.uri).query_frame("SELECT sum(load_s + total_s) AS inside FROM cells")
    return took, Took(cells["inside"][0], cells["inside"][0])


def _time_run(
    root: Path, lake: Lake, backend: BackendName, work: TaskFunction | None = None, slots: int = 1
) -> tuple[Took, float]:
    """Return the time of a run over a whole history, without its planning, and the growth of memory in MB."""
    plan = make_plan(_sweep(root, slots), lake)
    with Growth() as growth:
        start = now()
        report = run(plan, lake, backend, work)
        took = since(start)
    assert report.committed == len(plan.todo), report
    return took, growth.mb


def _time_trivial_run(root: Path, backend: BackendName) -> tuple[Took, float]:
    """Run a stub history into a new lake; return the time and the growth of memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        return _time_run(root, Lake(folder), backend, nothing, slots=os.cpu_count() or 1)


def _sweep(root: Path, slots: int) -> Sweep:
    return Sweep(
        name="bench",
        checkpoints=(Local(local=str(root)),),
        corpora=(Corpus(kind="random-uniform"),),
        recipe=built_in_recipe("quick@1"),
        resources=Resources(slots=slots, cpus=slots * torch.get_num_threads()),
    )


def _trivial_tasks(root: Path, scale: Scale) -> Iterator[Comparison]:
    _time_trivial_run(stub_history(root / "few", 4), "ray")  # warm-up: imports Ray and starts it once
    many, limit = stub_history(root / "many", scale.tasks), at_most(1.0).only_if(scale.full)
    for backend, (backend_text, limit_s) in BACKENDS.items():
        took, mb = zip(*(_time_trivial_run(many, backend) for _ in range(ROUNDS)), strict=True)
        subject = Subject("sweep", f"trivial tasks through the driver, {backend_text}", scale.tasks)
        yield within(subject, took, limit_s, promised=scale.full)
        subject = Subject("sweep", f"driver memory growth for trivial tasks, {backend_text}", scale.tasks)
        yield Comparison(subject, "limit", "MB", mb, [GROWTH_MB] * ROUNDS, limit)


def _fetched_ahead(root: Path) -> Comparison:
    """Compare the time of all slots with the part of it that is spent measuring.

    Fetching a checkpoint takes as long as measuring it, and Ray has been warmed up by a first run.
    """
    from pipeline.sweep.ray_backend import RayBackend

    sweep = _sweep(root, SLOTS)
    with tempfile.TemporaryDirectory() as folder:
        plan, lake = make_plan(sweep, Lake(folder)), Lake(folder)
        with closing(RayBackend(TaskFunctions(nap_before, nap, discard_fetched), sweep.resources, AHEAD)) as backend:
            Driver(plan, lake, backend, "first", RunProgress(NAPS), {}).run()
            start, waited_s = now(), backend.gpu_wait_s
            report = Driver(plan, lake, backend, "second", RunProgress(NAPS), {}).run()
            slots_s, waited_s = SLOTS * since(start).wall, backend.gpu_wait_s - waited_s
    assert report.committed == NAPS, report
    subject = Subject("sweep", f"{SLOTS} slots, {NAP_S:g} s to fetch and {NAP_S:g} s to measure each, total", NAPS)
    note = f"{waited_s:.1f} s idle waiting for files"
    return Comparison(subject, "measuring", "s", [slots_s], [NAPS * NAP_S], at_least(BUSY), note)
