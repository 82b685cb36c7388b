"""Replay of a lake to experiment trackers: one run per history and text, with checkpoints in training order.

Cells finish in any order, and trackers drop or misplace late points. Runs are therefore built from the finished lake.
"""

import shlex
from collections.abc import Iterator
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline import output_paths
from pipeline.analysis.frames import HISTORY_COLUMNS, disambiguate_corpora, select_history_rows
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader
from pipeline.strict_model import digest_json

LAYER_METRICS = (
    *("anisotropy", "anisotropy_se", "anisotropy_no_sink", "anisotropy_no_sink_se", "id_twonn", "id_twonn_se"),
    *("id_mle", "id_mle_se", "effective_rank_lambda", "participation_ratio_corrected", "linearity", "norm_median"),
)
STEP_METRICS = ("loss", "loss_se")
"""Metrics with one value per cell."""
_ROW_COLUMNS = ("corpus_sha256", "weights_digest", "superseded", "step", "layer", "written_at")
TRACKER_VIEW_COMMANDS = {
    "tensorboard": "tensorboard --logdir {folder}",
    "wandb": "wandb sync {folder}/offline-run-*",
    "trackio": "TRACKIO_DIR={folder} trackio show --project shapelake",
}
"""Command that shows the exported runs, by tracker."""
SYNCED_TRACKERS = ("wandb",)
"""Trackers whose command uploads every run in the folder; such a folder must hold no other runs."""


class TrackerPoint(NamedTuple):
    """Values of one checkpoint."""

    step: int
    """Training step, the x axis of every tracker."""
    measured_at: datetime
    """Time at which the values were written to the lake. Trackers get it as wall time, so all replays are equal."""
    values: dict[str, float]
    """Values by name, such as `anisotropy/layer_03`; unknown values are left out."""


class TrackerRun(NamedTuple):
    name: str
    """Keys of the history that are not null, joined by slashes; it is a valid path on any file system."""
    history_keys: dict[str, str]
    points: tuple[TrackerPoint, ...]

    @property
    def digest(self) -> str:
        """Digest of the name and all points, to recognise an unchanged run."""
        return digest_json([self.name, [[point.step, str(point.measured_at), point.values] for point in self.points]])


class ReplayResult(NamedTuple):
    runs_written: int
    runs_unchanged: int
    view_command: str
    """Command that shows the runs."""


def replay_runs(reader: LakeReader, tracker: str, folder: str | Path) -> ReplayResult:
    """Write every run of the lake to `folder`, in files of the tracker; unchanged runs are not rewritten.

    The export can be repeated: after a kill at any moment, the next one writes the missing runs.

    Raises:
        UsageError: the tracker is not installed, or the folder cannot be written; or the tracker is one of
            SYNCED_TRACKERS, and the folder holds other files.
    """
    try:
        if find_spec(tracker) is None:
            raise ModuleNotFoundError(name=tracker)
        write = import_module(f"pipeline.export.to_{tracker}").write_run
    except ModuleNotFoundError as error:
        found, do = f"{error.name} is not installed", f"Install the extra: pip install 'shapelake[{tracker}]'"
        raise UsageError(f"export to {tracker}", found, do) from error
    asked = f"export to {tracker} in"
    folder = output_paths.require_writable_folder(asked, folder)
    if tracker in SYNCED_TRACKERS:
        output_paths.require_own_folder(asked, folder, f"{tracker} runs")
    done = [write(run, folder) for run in iter_tracker_runs(reader)]
    command = TRACKER_VIEW_COMMANDS[tracker].format(folder=shlex.quote(str(folder)))
    return ReplayResult(sum(done), len(done) - sum(done), command)


def iter_tracker_runs(reader: LakeReader) -> Iterator[TrackerRun]:
    """Yield one run per history and text, sorted by keys. Labels without a reliable step are left out."""
    columns = ", ".join((*HISTORY_COLUMNS, *_ROW_COLUMNS, *LAYER_METRICS, *STEP_METRICS))
    rows = disambiguate_corpora(reader.query_frame(f"SELECT {columns} FROM layers"))
    frame = select_history_rows(rows).sort(*HISTORY_COLUMNS, "step", "layer")
    for part in frame.partition_by(*HISTORY_COLUMNS, maintain_order=True):
        keys = {name: part[name][0] for name in HISTORY_COLUMNS if part[name][0] is not None}
        name = "/".join(value.replace("/", "--").replace(":", "-") for value in keys.values())
        points = part.partition_by("step", maintain_order=True)
        yield TrackerRun(name, keys, tuple(_point(rows) for rows in points))


def _point(rows: pl.DataFrame) -> TrackerPoint:
    layers = rows.to_dicts()
    layer_values = {f"{name}/layer_{row['layer']:02d}": row[name] for name in LAYER_METRICS for row in layers}
    values = layer_values | {name: rows[name][0] for name in STEP_METRICS}
    known = {name: value for name, value in values.items() if value is not None}
    return TrackerPoint(rows["step"][0], rows["written_at"].max(), known)  # type: ignore[arg-type]
