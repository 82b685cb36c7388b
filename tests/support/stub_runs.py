"""Plan and run a stub sweep, inline or on a scripted backend."""

import os
import signal
from pathlib import Path

from pipeline.sweep.driver import Driver
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.run_progress import RunProgress
from pipeline.sweep.task import Outcome, Task
from tests.support import stub_checkpoints as stub


def go(root: Path, lake, work=stub.work, retry: bool = False, **changes):
    """Plan and run the stub sweep over `root`; return plan and report."""
    plan = make_plan(stub.sweep(root, **changes), lake, retry)
    return plan, run(plan, lake, "inline", work)


def refuse(task):
    raise AssertionError("nothing should have been submitted")


class Scripted:
    """Backend of four slots that finishes at most one task per call and records which tasks ran together."""

    slots = capacity = 4
    gpu_wait_s = 0.0

    def __init__(self, work=None) -> None:
        self.work, self.queue, self.together = work, [], []

    def describe_running(self) -> list[str]:
        return []

    def find_too_large(self, cells) -> dict[str, str]:
        return {}

    def require_visible(self, paths) -> None: ...

    def submit(self, task: Task) -> None:
        self.queue.append(task)
        self.together.append({t.checkpoint.step for t in self.queue})

    @property
    def measuring(self) -> list[Task]:
        return self.queue

    def wait(self, timeout_s: float):
        if self.work is None:
            os.kill(os.getpid(), signal.SIGTERM)
            return []
        return [(task, self._outcomes(task)) for task in [self.queue.pop(0)]] if self.queue else []

    def _outcomes(self, task: Task) -> list[Outcome]:
        """Outcomes of `work`; the canary succeeds."""
        return self.work(task) if task.canary_host is None else [Outcome(cell_id=cell.id) for cell in task.cells]

    def withdraw(self) -> list[Task]:
        return []

    def close(self) -> None:
        pass


def drive(root: Path, lake, backend: Scripted, **changes):
    plan = make_plan(stub.sweep(root, **changes), lake)
    return Driver(plan, lake, backend, "run", RunProgress(len(plan.todo)), {}).run()
