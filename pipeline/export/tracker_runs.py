"""A lake as a tracker thinks of it: one run per history and text, its checkpoints in the order of training.

Cells finish in any order, and trackers drop or misplace what comes late; so runs are made of the lake, sorted.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import polars as pl

from pipeline.analysis.frames import HISTORY_COLUMNS, disambiguate_corpora, select_history_rows
from pipeline.lake.reader import LakeReader
from pipeline.strict_model import digest_json

LAYER_METRICS = (
    *("anisotropy", "anisotropy_se", "anisotropy_no_sink", "anisotropy_no_sink_se", "id_twonn", "id_twonn_se"),
    *("id_mle", "id_mle_se", "effective_rank_lambda", "participation_ratio_corrected", "linearity", "norm_median"),
)
STEP_METRICS = ("loss", "loss_se")
"""Equal in all rows of a cell."""
_ROW_COLUMNS = ("corpus_sha256", "weights_digest", "superseded", "step", "layer", "written_at")


class TrackerPoint(NamedTuple):
    """All values of one checkpoint."""

    step: int
    """Of training: the x axis everywhere."""
    measured_at: datetime
    """When the lake got them, which stands for the wall clock: a replay tomorrow is the same replay."""
    values: dict[str, float]
    """By name, such as `anisotropy/layer_03`. What is null in the lake is left out."""


class TrackerRun(NamedTuple):
    name: str
    """The keys of the history that are not null, joined by slashes; a path that any file system takes."""
    history_keys: dict[str, str]
    points: tuple[TrackerPoint, ...]

    @property
    def digest(self) -> str:
        """Of all that is in it: equal runs are one."""
        return digest_json([self.name, [[point.step, str(point.measured_at), point.values] for point in self.points]])


def iter_tracker_runs(reader: LakeReader) -> Iterator[TrackerRun]:
    """Every run of the lake, by name. Labels without a step, or with one that cannot be believed, are in none."""
    columns = ", ".join((*HISTORY_COLUMNS, *_ROW_COLUMNS, *LAYER_METRICS, *STEP_METRICS))
    frame = select_history_rows(disambiguate_corpora(reader.query_frame(f"SELECT {columns} FROM layers"))).sort(
        *HISTORY_COLUMNS, "step", "layer"
    )
    for part in frame.partition_by(*HISTORY_COLUMNS, maintain_order=True):
        keys = {name: part[name][0] for name in HISTORY_COLUMNS if part[name][0] is not None}
        name = "/".join(value.replace("/", "--").replace(":", "-") for value in keys.values())
        points = part.partition_by("step", maintain_order=True)
        yield TrackerRun(name, keys, tuple(_point(rows) for rows in points))


def _point(rows: pl.DataFrame) -> TrackerPoint:
    each = {
        f"{column}/layer_{row['layer']:02d}": row[column]
        for column in LAYER_METRICS
        for row in rows.iter_rows(named=True)
    }
    values = each | {column: rows[column][0] for column in STEP_METRICS}
    known = {name: value for name, value in values.items() if value is not None}
    return TrackerPoint(rows["step"][0], rows["written_at"].max(), known)  # type: ignore[arg-type]
