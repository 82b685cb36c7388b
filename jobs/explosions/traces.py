"""The runs of the experiment and their traces, one Parquet file each: what is there is not run again."""

import multiprocessing
import os
from pathlib import Path

import polars as pl
import torch

from jobs.explosions.disturbances import CALM, INDUCED
from jobs.explosions.training import Run, trace
from pipeline.geometry import set_threads
from pipeline.progress import Progress


def runs(seeds: int, first: int = 0) -> list[Run]:
    """Each way to explode so many times, and after each a calm run, over their kinds in turn.

    Every run has a seed of its own, even where it is disturbed and odd where it is calm: no two share anything.
    `first` rounds of them are passed over.
    """
    pairs = range(first * len(INDUCED), (first + seeds) * len(INDUCED))
    induced, calm = list(INDUCED), list(CALM)
    return [run for n in pairs for run in (Run(induced[n % len(induced)], 2 * n), Run(calm[n % len(calm)], 2 * n + 1))]


def record(wanted: list[Run], folder: Path, workers: int) -> None:
    """Train every run of which the folder has no trace yet."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(run, folder) for run in wanted if not _file(run, folder).exists()]
    if not missing:
        return
    with (
        multiprocessing.get_context("spawn").Pool(workers, _one_thread) as pool,
        Progress("Training", len(missing), "runs") as progress,
    ):
        for _ in pool.imap_unordered(_record, missing):
            progress.advance(1)


def recorded(run: Run, folder: Path) -> pl.DataFrame:
    """The trace of one run."""
    return pl.read_parquet(_file(run, folder))


def _one_thread() -> None:
    torch.set_num_threads(1)
    set_threads(1)


def _record(task: tuple[Run, Path]) -> None:
    """The file appears when it is whole; another process may have been first."""
    run, folder = task
    if _file(run, folder).exists():
        return
    partial = folder / f".{run.name}.{os.getpid()}"
    pl.DataFrame(list(trace(run)), infer_schema_length=None).write_parquet(partial)
    partial.replace(_file(run, folder))


def _file(run: Run, folder: Path) -> Path:
    return folder / f"{run.name}.parquet"
