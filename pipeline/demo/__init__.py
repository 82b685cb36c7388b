"""The demo: two small histories, one real sweep over each, and what became of their space."""

import os
import sys
from pathlib import Path

from rich.console import Console

from pipeline.demo.tables import print_tables
from pipeline.lake import Lake, open_lake
from pipeline.spec import Corpus, Local, Resources, Sweep, built_in_recipe
from pipeline.sweep.driver import RunReport
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run

HISTORY_NAMES = ("demo-decoder", "demo-encoder")


def demo_sweep(folder: Path) -> Sweep:
    """Both histories, on text that they were not trained on and on random tokens."""
    cpus = os.cpu_count() or 1
    return Sweep(
        name="demo",
        checkpoints=tuple(Local(local=str(folder / name)) for name in HISTORY_NAMES),
        corpora=(Corpus(kind="text", path=str(folder / "prose.txt")), Corpus(kind="random-uniform")),
        recipe=built_in_recipe("quick@1"),
        resources=Resources(cpus=cpus, slots=min(cpus, 4)),
    )


def run_demo(folder: Path) -> int:
    """Train what is not trained yet, measure what is not measured yet, print; returns the exit code."""
    from pipeline.demo.train import train_missing
    from pipeline.report import write_report

    console = Console(stderr=True)
    console.print("1/3 training a small decoder and a small encoder on Python's own documentation")
    train_missing(folder, console)
    console.print("2/3 measuring every checkpoint, on prose and on random tokens, through local Ray")
    uri = str(folder / "lake")
    plan = make_plan(demo_sweep(folder.resolve()), Lake(uri))
    report: RunReport = run(plan, Lake(uri), "ray")
    console.print("3/3 what happened to the space they think in")
    sys.stderr.flush()
    print_tables(uri)
    page, *_ = write_report(open_lake(uri), folder / "report.html")
    console.print(f"the same to look at: {page}")
    return report.exit_code
