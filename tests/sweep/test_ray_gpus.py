"""Models on one GPU and on several, on a fake Ray and on a real Ray with declared but absent GPUs."""

import time

import pytest

from pipeline.spec import Resources
from pipeline.sweep.backend import TaskFunctions
from pipeline.sweep.ray_backend import RayBackend
from tests.support.fake_ray import FakeRay, cell_of_size, hub_task, open_backend, task


def test_a_model_of_two_gpus_is_fetched_where_two_are(monkeypatch):
    fake = FakeRay({"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 2})
    opened = open_backend(monkeypatch, fake, cpus=2, gpus=2, slots=2, gpu_gb=24)
    opened.submit(hub_task(cells=(cell_of_size(12 * 10**9),)))
    assert fake.submitted[0].node == fake.living[1]["NodeID"]


@pytest.mark.parametrize(("billions", "gpus"), [(1.4, 1), (6.9, 1), (12, 2), (32, 4), (70, 7)])
def test_a_model_gets_as_many_gpus_as_have_room_for_its_weights(monkeypatch, billions, gpus):
    """bfloat16 on GPUs of 24 GB: 40 % of the first and 10 % of each other are reserved."""
    fake = FakeRay({"CPU": 64, "GPU": 8})
    opened = open_backend(monkeypatch, fake, cpus=8, gpus=8, slots=8, gpu_gb=24)
    cells = tuple(cell_of_size(int(billions * 1e9)) for _ in range(2))
    assert opened.find_too_large(cells) == {}
    for step in range(2):
        opened.submit(task(step, cells=cells[step : step + 1]))
    assert [one.options["num_gpus"] for one in fake.submitted] == [gpus] * min(8 // gpus, 2)


def test_a_model_that_no_node_which_runs_tasks_has_gpus_for_is_too_large(monkeypatch):
    opened = open_backend(
        monkeypatch,
        FakeRay({"CPU": 64, "GPU": 2}, {"CPU": 64, "GPU": 1}, {"CPU": 1, "GPU": 8}),
        cpus=4,
        gpus=2,
        slots=2,
        gpu_gb=24,
        address="auto",
    )
    small, large = cell_of_size(10**9), cell_of_size(32 * 10**9, step=1)
    why = "4 GPUs of 24 GB are needed in one node; the largest node has 2"
    assert opened.find_too_large([small, large]) == opened.find_too_large([large]) == {large.id: why}


@pytest.mark.slow
def test_a_model_of_two_gpus_sees_two_that_no_task_beside_it_sees():
    """A real Ray with four declared GPUs; a model that needs more is refused at once."""
    from tests.support.ray_tasks import nap, naps

    resources = Resources(cpus=4, gpus=4, gpu_gb=24)
    opened = RayBackend(TaskFunctions(lambda task: [], nap, lambda task: None), resources)
    began = time.monotonic()
    (why,) = opened.find_too_large([cell_of_size(45 * 10**9)]).values()
    assert why == "5 GPUs of 24 GB are needed in one node; the largest node has 4"
    assert time.monotonic() - began < 2
    large = [task(step, cells=(cell_of_size(12 * 10**9),), resources=resources) for step in range(4)]
    napped = naps(opened, large)
    assert len({pid for _, _, pid, _ in napped}) == 4, "each in a process of its own"
    done = [(began, ended, set(gpus.split(","))) for began, ended, _, gpus in napped]
    assert [len(gpus) for *_, gpus in done] == [2] * 4
    beside = [(one, two) for i, (_, end, one) in enumerate(done) for begin, _, two in done[i + 1 :] if begin < end]
    assert beside, "two run at once"
    assert all(one.isdisjoint(two) for one, two in beside)
