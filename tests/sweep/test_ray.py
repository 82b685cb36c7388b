"""The driver on a real local Ray: whatever befalls a task comes back as a typed outcome, and the others finish."""

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.spec import Resources
from pipeline.sweep.backend import Stages, Work
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task
from pipeline.sweep.worker import watchdog
from tests.lake import made
from tests.sweep import stub

DEATHS = {"segv": "crash", "exit": "crash", "interrupt": "preempted"}
"""What the attempt is called, by how the worker ended."""
REFUSED = {"raise": "error", "two": "error", "unpicklable": "error"}
"""What must not come out of a worker, and does."""


def watched_stub(task: Task) -> list[Outcome]:
    """The stub; the one that hangs under the worker's own watchdog, as the others may take long on a busy machine."""
    fault = Path(task.checkpoint.path) / "fault"
    with watchdog(task) if fault.exists() and fault.read_text() == "hang" else nullcontext():
        return stub.work(task)


def test_crashes_hangs_and_exceptions_are_budgeted_and_the_good_ones_finish(tmp_path: Path):
    once = [f"{name}:1" for name in DEATHS]
    faults = dict(enumerate(["crash", "hang", "oom:1", *once, *REFUSED]))
    root = stub.history(tmp_path / "runs", list(range(12)), faults=faults)
    lake = Lake(tmp_path / "lake")
    plan = make_plan(stub.sweep(root, cpus=4, slots=4, timeout_s=3), lake)
    report = run(plan, lake, "ray", watched_stub)

    names = {cell.id: faults.get(cell.checkpoint.step, "") for cell in plan.cells}
    attempts = {names[cell_id]: dict(classes) for cell_id, classes in lake.attempts().items()}
    assert attempts == {
        **{f"{name}:1": {error_class: 1} for name, error_class in DEATHS.items()},
        **{name: {error_class: 1} for name, error_class in REFUSED.items()},
        **{"crash": {"crash": 5}, "hang": {"timeout": 2}, "oom:1": {"oom": 1}},
    }
    assert {names[cell_id] for cell_id in lake.quarantined()} == {"crash", "hang"}
    assert {names[cell_id] for cell_id in names.keys() - lake.committed()} == {"crash", "hang", *REFUSED}
    assert (report.exit_code, report.committed) == (1, 7)
    stuck = lake.failures({cell_id for cell_id, name in names.items() if name == "hang"})[0]
    assert stuck.message == "no end after 3 s"
    assert "stub.py" in (stuck.traceback or ""), "the stack of the stuck task is kept"


def test_a_cluster_that_is_not_there_is_refused_at_once():
    with pytest.raises(UsageError, match="nothing listens there"):
        opened(stub.work, Resources(cpus=1, address="127.0.0.1:1"))


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of a Ray head with four CPUs and four GPUs that are none."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 4, "num_gpus": 4, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    yield f"127.0.0.1:{cluster.address.rpartition(':')[2]}"
    cluster.shutdown()


def opened(measure: Work, resources: Resources):
    from pipeline.sweep.ray_backend import RayBackend

    return RayBackend(Stages(lambda task: [], measure, lambda task: None), resources)


def nap(task: Task) -> list[Outcome]:
    """Sleep a second; who did, when and on which GPUs."""
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


def tasks(n: int, resources: Resources) -> list[Task]:
    cells = [made.cell(made.checkpoint(step)) for step in range(n)]
    return [
        Task(lake="lake", run_id="run", checkpoint=cell.checkpoint, cells=(cell,), resources=resources)
        for cell in cells
    ]


@pytest.mark.slow
def test_what_no_node_can_run_is_refused_in_two_seconds(head):
    began = time.monotonic()
    with pytest.raises(UsageError, match="no node has that much"):
        opened(nap, Resources(cpus=64, slots=1, address=head))
    import ray

    ray.shutdown()
    assert time.monotonic() - began < 2 * max(os.getloadavg()[0] / (os.cpu_count() or 1), 1)


@pytest.mark.slow
def test_tasks_at_once_have_a_gpu_each_and_every_task_has_a_process_of_its_own(head):
    resources = Resources(cpus=4, gpus=4, address=head)
    done = naps(opened(nap, resources), tasks(12, resources))
    assert len({pid for _, _, pid, _ in done}) == 12
    assert {gpus for *_, gpus in done} == {"0", "1", "2", "3"}
    for index, (_, ended, _, gpus) in enumerate(done):
        assert gpus not in {other for began, _, _, other in done[index + 1 :] if began < ended}
