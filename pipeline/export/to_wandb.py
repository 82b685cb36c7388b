"""Runs for Weights & Biases, written offline: uploading them is its own command, `wandb sync`."""

import os
import shutil
from pathlib import Path

import wandb  # pyright: ignore[reportMissingImports]

from pipeline.export.tracker_runs import TrackerRun

PROJECT = "shapelake"


def write_run(run: TrackerRun, folder: Path) -> bool:
    """Write the run as a folder `offline-run-TIME-ID`; False if one of its id is there already.

    The id is the digest of the run: W&B refuses points before its last, so a history that has grown is a new run of
    the same name. A run is written aside and renamed, so what is there is whole.
    """
    if any(folder.glob(f"offline-run-*-{run.digest}")):
        return False
    aside = folder / "partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
    )
    names = {"project": PROJECT, "id": run.digest, "name": run.name, "group": run.history_keys["model"]}
    with wandb.init(mode="offline", dir=aside, config=run.history_keys, settings=settings, **names) as writer:
        writer.define_metric("*", step_metric="checkpoint_step")
        for point in run.points:
            writer.log({**point.values, "checkpoint_step": point.step}, step=point.step)
    (written,) = aside.glob("wandb/offline-run-*")
    os.replace(written, folder / written.name)
    shutil.rmtree(aside)
    return True
