"""Every tracker that a lake can be replayed to."""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from pipeline import output_paths
from pipeline.errors import UsageError
from pipeline.export.tracker_runs import iter_tracker_runs
from pipeline.lake.reader import LakeReader

TRACKER_VIEW_COMMANDS = {
    "tensorboard": "tensorboard --logdir {folder}",
    "wandb": "wandb sync {folder}/offline-run-*",
    "trackio": "TRACKIO_DIR={folder} trackio show --project shapelake",
}
"""By name the command that shows what was written."""


class ReplayResult(NamedTuple):
    runs_written: int
    runs_unchanged: int
    view_command: str
    """The command that shows it."""


def replay_runs(reader: LakeReader, tracker: str, folder: str | Path) -> ReplayResult:
    """Replay every run of the lake to a folder of the tracker's own files; runs that are there already stay.

    Killed at any moment, the next replay writes what is missing.

    Raises:
        UsageError: the tracker is not installed, or the folder cannot be written.
    """
    try:
        write = import_module(f"pipeline.export.to_{tracker}").write_run
    except ModuleNotFoundError as error:
        found, do = f"{error.name} is not installed", f"Install the extra: pip install 'shapelake[{tracker}]'"
        raise UsageError(f"export to {tracker}", found, do) from error
    folder = output_paths.require_writable_folder(f"export to {tracker} in", folder)
    done = [write(run, folder) for run in iter_tracker_runs(reader)]
    return ReplayResult(sum(done), len(done) - sum(done), TRACKER_VIEW_COMMANDS[tracker].format(folder=folder))
