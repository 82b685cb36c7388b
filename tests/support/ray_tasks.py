"""Tasks for a real Ray: one that sleeps for a second and records where, and their results."""

import os
import time

from pipeline.spec import RemoteFiles, Resources
from pipeline.sweep.backend import TaskFunction, TaskFunctions
from pipeline.sweep.task import Outcome, Task
from tests.support import lake_rows


def opened(measure: TaskFunction, resources: Resources, fetch: TaskFunction = lambda task: [], ahead: int = 0):
    from pipeline.sweep.ray_backend import RayBackend

    return RayBackend(TaskFunctions(fetch, measure, lambda task: None), resources, ahead)


def nap(task: Task) -> list[Outcome]:
    """Sleep a second; record process, times and GPUs."""
    began = time.time()
    time.sleep(1)
    said = f"{began} {time.time()} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
    return [Outcome(cell_id=cell.id, summary=said) for cell in task.cells]


def naps(backend, tasks: list[Task]) -> list[tuple[float, float, str, str]]:
    """(begin, end, pid, GPUs) of each task."""
    waiting, under_way, said = list(tasks), 0, []
    while waiting or under_way:
        while waiting and under_way < backend.capacity:
            backend.submit(waiting.pop())
            under_way += 1
        for _, (outcome,) in backend.wait(1.0):
            assert outcome.ok, outcome.message
            began, ended, pid, gpus = outcome.summary.split(" ")
            said.append((float(began), float(ended), pid, gpus))
            under_way -= 1
    backend.close()
    return sorted(said)


def tasks(n: int, resources: Resources, lake: str = "lake", remote: RemoteFiles | None = None) -> list[Task]:
    cells = [lake_rows.cell(lake_rows.checkpoint(step, remote=remote)) for step in range(n)]
    return [
        Task(lake=lake, run_id="run", checkpoint=cell.checkpoint, cells=(cell,), resources=resources) for cell in cells
    ]
