"""Runs for trackio's dashboard: one project of its local database."""

import os
from pathlib import Path

from pipeline.export.tracker_runs import TrackerRun

PROJECT = "shapelake"


def write_run(run: TrackerRun, folder: Path) -> bool:
    """Write the run to the database in `folder`; False if it is there already.

    A run is one transaction with its digest, so it is there whole or not at all; one that has grown is replaced.
    """
    os.environ["TRACKIO_DIR"] = str(folder.resolve())  # read when trackio is imported
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    held = SQLiteStorage.get_run_config(PROJECT, run.name)
    if held and held.get("digest") == run.digest:
        return False
    SQLiteStorage.delete_run(PROJECT, run.name)
    SQLiteStorage.bulk_log(
        project=PROJECT,
        run=run.name,
        metrics_list=[point.values for point in run.points],
        steps=[point.step for point in run.points],
        timestamps=[point.measured_at.isoformat() for point in run.points],
        config={**run.history_keys, "digest": run.digest},
    )
    return True
