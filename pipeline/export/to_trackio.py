"""trackio writer: one project in its local database."""

import os
from pathlib import Path

from pipeline.export.tracker_runs import TrackerRun

PROJECT = "shapelake"


def write_run(run: TrackerRun, folder: Path) -> bool:
    """Write the run to the database in `folder`; return False if an equal run is there already.

    A run and its digest are written in one transaction, so a run is complete or absent. A run of the same name with
    another digest, for example of a history that has grown, is replaced.
    """
    os.environ["TRACKIO_DIR"] = str(folder.resolve())  # trackio reads it on import
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    config = SQLiteStorage.get_run_config(PROJECT, run.name)
    if config and config.get("digest") == run.digest:
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
