"""TensorBoard writer: one event file per run, byte-identical for equal rows."""

import os
from io import BytesIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from pipeline.export.tracker_runs import TrackerRun

EVENT_FILE_NAME = "events.out.tfevents.0.shapelake"
"""Name of the file of a run; TensorBoard reads files with `tfevents` in their name.

The usual name contains the time and the host. This one does not, so that equal runs give equal files.
"""


def write_run(run: TrackerRun, folder: Path) -> bool:
    """Write the run atomically to a folder of its own; return False if an equal file is there already."""
    path, data = folder / run.name / EVENT_FILE_NAME, encode_events(run)
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return True


def encode_events(run: TrackerRun) -> bytes:
    """Encode the event file: a header, then one event per checkpoint."""
    data = BytesIO()
    writer = RecordWriter(data)
    began = run.points[0].measured_at.timestamp()
    writer.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
    for point in run.points:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        event = Event(wall_time=point.measured_at.timestamp(), step=point.step, summary=Summary(value=values))
        writer.write(event.SerializeToString(deterministic=True))
    return data.getvalue()
