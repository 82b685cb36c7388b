"""Weights & Biases writer: offline runs, uploaded separately by `wandb sync`."""

import os
import shutil
from pathlib import Path

import wandb  # pyright: ignore[reportMissingImports]

from pipeline.export.tracker_runs import TrackerRun

PROJECT = "shapelake"
STAGING_NAME = ".shapelake-partial"
"""Folder in which a run is written. It is deleted before each run, since a killed export may have left files in it."""


def write_run(run: TrackerRun, folder: Path) -> bool:
    """Write the run as a folder `offline-run-TIME-ID`; return False if a run with its id exists.

    The id is the digest of the run. W&B refuses points at earlier steps than the last one, so a history that has grown
    cannot be extended: it becomes a new run of the same name. A run is written to STAGING_NAME and renamed, so each run
    folder is complete.
    """
    if any(folder.glob(f"offline-run-*-{run.digest}")):
        return False
    staging = folder / STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
    )
    names = {"project": PROJECT, "id": run.digest, "name": run.name, "group": run.history_keys["model"]}
    with wandb.init(mode="offline", dir=staging, config=run.history_keys, settings=settings, **names) as writer:
        writer.define_metric("*", step_metric="checkpoint_step")
        for point in run.points:
            writer.log({**point.values, "checkpoint_step": point.step}, step=point.step)
    (written,) = staging.glob("wandb/offline-run-*")
    os.replace(written, folder / written.name)
    shutil.rmtree(staging)
    return True
