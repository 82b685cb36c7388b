"""Runs of the study and their traces, one Parquet file each; existing traces are not recomputed."""

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
    """Return `seeds` disturbed runs of each kind in INDUCED, each followed by a calm run; the kinds take turns.

    Every run has a seed of its own: even for disturbed runs, odd for calm ones. The seeds of the first `first` rounds
    are skipped; a round has one disturbed run of each kind.
    """
    pairs = range(first * len(INDUCED), (first + seeds) * len(INDUCED))
    induced, calm = list(INDUCED), list(CALM)
    return [run for n in pairs for run in (Run(induced[n % len(induced)], 2 * n), Run(calm[n % len(calm)], 2 * n + 1))]


def record(wanted: list[Run], folder: Path, workers: int) -> None:
    """Train every run without a trace in the folder."""
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


def read_trace(run: Run, folder: Path) -> pl.DataFrame:
    return pl.read_parquet(_file(run, folder))


def _one_thread() -> None:
    torch.set_num_threads(1)
    set_threads(1)


def _record(task: tuple[Run, Path]) -> None:
    """Write the trace atomically: the final name appears only when the file is complete."""
    run, folder = task
    if _file(run, folder).exists():
        return
    partial = folder / f".{run.name}.{os.getpid()}"
    pl.DataFrame(list(trace(run)), infer_schema_length=None).write_parquet(partial)
    partial.replace(_file(run, folder))


def _file(run: Run, folder: Path) -> Path:
    return folder / f"{run.name}.parquet"
