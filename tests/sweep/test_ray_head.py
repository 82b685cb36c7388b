"""Ray backend on its own head: tasks that no node can run, one GPU per task, prefetch, drain."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from pipeline.errors import UsageError
from pipeline.spec import RemoteFiles, Resources
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task
from tests.support import four_task_driver
from tests.support import stub_checkpoints as stub
from tests.support.ray_tasks import nap, naps, opened, tasks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of a Ray head with four CPUs and four declared GPUs."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 4, "num_gpus": 4, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    yield f"127.0.0.1:{cluster.address.rpartition(':')[2]}"
    cluster.shutdown()


def test_what_no_node_can_run_is_refused_in_two_seconds(head):
    began = time.monotonic()
    with pytest.raises(UsageError, match="no node has that much"):
        opened(nap, Resources(cpus=64, slots=1, address=head))
    import ray

    ray.shutdown()
    assert time.monotonic() - began < 2 * four_task_driver.crowded()


def test_tasks_at_once_have_a_gpu_each_and_every_task_has_a_process_of_its_own(head):
    resources = Resources(cpus=4, gpus=4, address=head)
    done = naps(opened(nap, resources), tasks(12, resources))
    assert len({pid for _, _, pid, _ in done}) == 12
    assert {gpus for *_, gpus in done} == {"0", "1", "2", "3"}
    for index, (_, ended, _, gpus) in enumerate(done):
        assert gpus not in {other for began, _, _, other in done[index + 1 :] if began < ended}


def download(task: Task) -> list[Outcome]:
    """Sleep a second, then write a note."""
    time.sleep(1)
    Path(task.lake, f"{task.checkpoint.step}").write_text(f"{time.time()}")
    return []


def test_fetching_ahead_keeps_the_slots_busy(head, tmp_path):
    """Order of events, independent of speed: a slot waited if it was free before its files were fetched."""
    slots, n = 2, 16
    resources = Resources(cpus=slots, slots=slots, address=head)
    wanted = tasks(n, resources, str(tmp_path), RemoteFiles(repo="lab/small", commit="c", files=()))
    done = naps(opened(nap, resources, download, ahead=2), wanted)
    there = sorted(float(path.read_text()) for path in tmp_path.iterdir())
    free = sorted(ended for _, ended, *_ in done)
    waited = sum(fetched > freed for fetched, freed in zip(there[slots:], free, strict=False))
    assert len(there) == n
    assert waited <= 0.2 * (n - slots)


@pytest.mark.parametrize(("n", "exit_code"), [(4, 0), (8, 143)], ids=["nothing-left", "four-left"])
def test_on_sigterm_four_tasks_of_three_seconds_are_finished_and_no_other_is_begun(head, tmp_path, lake, n, exit_code):
    root, told = stub.history(tmp_path / "runs", list(range(n))), []

    def tell() -> None:
        while len(four_task_driver.begun(root)) < 4:
            time.sleep(0.05)
        told.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    plan = make_plan(four_task_driver.sweep(root, head), lake)
    Thread(target=tell, daemon=True).start()
    report = run(plan, lake, "ray", four_task_driver.three_seconds)
    assert time.monotonic() - told[0] < four_task_driver.DRAINED_S * four_task_driver.crowded()
    assert (report.exit_code, report.committed, report.n_unfinished) == (exit_code, 4, n - 4)
    assert len(four_task_driver.begun(root)) == 4
