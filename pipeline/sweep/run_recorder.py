"""Records of a running sweep in the lake: heartbeats and labels.

If the lake refuses one, the run prints the error and continues; the next run writes the labels that are missing.
"""

import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import LakeError
from pipeline.lake import Lake
from pipeline.spec import Checkpoint
from pipeline.sweep.backend import Backend
from pipeline.sweep.plan import Plan
from pipeline.sweep.run_progress import RunProgress, Utilization
from pipeline.sweep.run_report import RunReport

HEARTBEAT_S = 10.0


class RunRecorder:
    """Writes the heartbeat, and the labels of committed checkpoints, every HEARTBEAT_S."""

    def __init__(self, plan: Plan, lake: Lake, run_id: str, progress: RunProgress) -> None:
        self._plan, self._lake, self._run_id, self._progress = plan, lake, run_id, progress
        self._to_label: set[str] = set()
        self._next_at = 0.0
        self.utilization = Utilization()

    def add_commit(self, checkpoint: Checkpoint, compute_s: float) -> None:
        """Add a committed cell, whose label is recorded with the next heartbeat."""
        self._to_label.add(checkpoint.content)
        self.utilization.add_compute_time(compute_s)

    def refresh(self, report: RunReport, backend: Backend, to_run: int, last: bool = False) -> None:
        """Write labels and heartbeat if they are due, or if this is the last call."""
        self.utilization.add_slot_time(backend.slots)
        if last or time.monotonic() > self._next_at:
            self._next_at = time.monotonic() + HEARTBEAT_S
            self._record_labels()
            fields = self._heartbeat_fields(report, backend, to_run, last)
            self.write_best_effort(lambda: self._lake.heartbeat(self._run_id, fields))

    def write_best_effort(self, write: Callable[[], object]) -> None:
        """Write a record that the next run can write too; if the lake refuses it, print the error and continue."""
        try:
            write()
        except LakeError as error:
            self._progress.print_line(str(error))

    def _record_labels(self) -> None:
        """Record the labels of all checkpoints committed since the last call, in one write."""
        contents, self._to_label = self._to_label, set()
        labels = [c for c in self._plan.checkpoints if c.content in contents] if contents else []
        if labels:
            self.write_best_effort(lambda: self._lake.record_labels(labels))

    def _heartbeat_fields(self, report: RunReport, backend: Backend, to_run: int, ended: bool) -> dict[str, Any]:
        return {
            "sweep": self._plan.sweep.name,
            "wanted": len(self._plan.cells),
            "to_run": to_run,
            "committed": report.n_done,
            "failed": len(report.failures),
            "left_out": [cells._asdict() for cells in report.left_out],
            "busy": self.utilization.share,
            "gpu_wait_s": round(backend.gpu_wait_s, 1),
            "running": [task.checkpoint.label for task in backend.measuring],
            "ended": ended,
        }
