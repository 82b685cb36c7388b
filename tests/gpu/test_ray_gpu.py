"""Ray tasks on real GPUs: memory is freed after a task, tasks do not share a device, and FAISS works there.

Ray is imported when a test starts, so that this file is collected, and its tests skipped, without Ray.
"""

import os
import time
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from torch import Tensor

from pipeline.geometry.candidates import default_engine, faiss_engine
from pipeline.recipe import built_in_recipe
from pipeline.spec import Cell, Checkpoint, Corpus, Resources
from pipeline.sweep.backend import TaskFunction, TaskFunctions
from pipeline.sweep.task import Outcome, Task
from tests.support import tiny_checkpoints as tiny
from tests.support.gpu_cells import cell

if TYPE_CHECKING:
    from pipeline.sweep.ray_backend import RayBackend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
N_GPUS = torch.cuda.device_count()
HELD_BYTES, SLACK_BYTES = 2 * 10**9, 10**8
GONE_S, MEET_S = 20.0, 12.0
"""Maximum time for a process to end, and between the starts of tasks submitted together, per GPU."""
N, DIM, K = 2000, 64, 10
HELD: list[Tensor] = []
"""Tensors that keep device memory allocated until their process ends."""


@pytest.fixture(autouse=True)
def _ray() -> None:
    pytest.importorskip("ray")


def ray_backend(measure: TaskFunction, resources: Resources, queue: int = 0) -> "AbstractContextManager[RayBackend]":
    from pipeline.sweep.ray_backend import RayBackend

    return closing(RayBackend(TaskFunctions(lambda task: [], measure, lambda task: None), resources, queue=queue))


def on(gpus: int) -> Resources:
    return Resources(gpus=gpus, cpus=gpus, address="local")


def tasks(n: int, folder: Path, resources: Resources) -> list[Task]:
    """Return tasks of checkpoints that do not exist; the tasks leave files in `folder`."""
    found = []
    for step in range(n):
        checkpoint = Checkpoint(
            model="t",
            revision=f"step{step}",
            path=str(folder),
            tokenizer_path=str(folder),
            kinds=("decoder",),
            weights_digest=f"weights {step}",
            config_digest="config",
            tokenizer_digest="tokenizer",
        )
        corpus = Corpus(kind="random-uniform")
        cells = (Cell(checkpoint=checkpoint, kind="decoder", corpus=corpus, recipe=built_in_recipe("quick@1")),)
        found.append(Task(lake=str(folder), run_id="run", checkpoint=checkpoint, cells=cells, resources=resources))
    return found


def summaries(backend: "RayBackend", submitted: list[Task]) -> list[str]:
    """Submit all tasks at once and return the summary of each outcome."""
    assert len(submitted) <= backend.capacity
    for task in submitted:
        backend.submit(task)
    found: list[str] = []
    while len(found) < len(submitted):
        for _, (outcome,) in backend.wait(1.0):
            assert outcome.ok, outcome.message + outcome.traceback
            found.append(outcome.summary)
    return found


def outcomes(task: Task, *words: object) -> list[Outcome]:
    return [Outcome(cell_id=cell.id, summary=" ".join(map(str, words))) for cell in task.cells]


def used_bytes() -> int:
    """Return the bytes used on the first device by all processes."""
    free, total = torch.cuda.mem_get_info(0)
    return total - free


def hold(task: Task) -> list[Outcome]:
    """Allocate memory until the process ends; the summary is the used memory."""
    HELD.append(torch.empty(HELD_BYTES, dtype=torch.uint8, device="cuda"))
    return outcomes(task, used_bytes())


def test_the_memory_of_a_task_is_free_once_it_has_come_back(tmp_path):
    before = used_bytes()
    with ray_backend(hold, on(1)) as backend:
        (used,) = summaries(backend, tasks(1, tmp_path, on(1)))
        assert int(used) >= before + HELD_BYTES
        until = time.monotonic() + GONE_S
        while used_bytes() > before + SLACK_BYTES:  # while Ray runs: its shutdown would end every worker
            assert time.monotonic() < until, f"{used_bytes() - before} bytes are still allocated"
            time.sleep(0.1)


def starved(task: Task) -> list[Outcome]:
    """Measure on a device without free memory."""
    from pipeline.sweep import worker  # imports the packages of the lake

    size, _ = torch.cuda.mem_get_info(0)
    while size:
        try:
            HELD.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    return worker.run_task(task)


def test_what_finds_no_room_on_the_device_is_out_of_memory(tmp_path):
    wanted = cell(tiny.checkpoint(tmp_path / "step1", seed=1))
    task = Task(lake=str(tmp_path), run_id="run", checkpoint=wanted.checkpoint, cells=(wanted,), resources=on(1))
    with ray_backend(starved, on(1)) as backend:
        backend.submit(task)
        while not (done := backend.wait(1.0)):
            pass
    ((_, (outcome,)),) = done
    assert outcome.error_class == "oom"
    assert "CUDA out of memory" in outcome.message


class Visit(NamedTuple):
    """Time and devices of one task."""

    began: float
    ended: float
    visible: list[str]
    uuids: list[str]


def uuid(device: int) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def visit(task: Task) -> list[Outcome]:
    """Wait until a task runs on every GPU (with one GPU: for a second task), up to the longest possible start time."""
    began, folder, gpus = time.time(), Path(task.lake), task.resources.gpus
    (folder / task.checkpoint.revision).touch()
    while len(list(folder.iterdir())) < max(gpus, 2) and time.time() < began + gpus * MEET_S:
        time.sleep(0.05)
    uuids = [uuid(device) for device in range(torch.cuda.device_count())]
    return outcomes(task, began, time.time(), os.environ["CUDA_VISIBLE_DEVICES"], *uuids)


def visits(lines: list[str]) -> list[Visit]:
    """Parse the visits, ordered by start time."""
    words = [line.split(" ") for line in lines]
    return sorted(Visit(float(w[0]), float(w[1]), w[2].split(","), w[3:]) for w in words)


@pytest.mark.skipif(N_GPUS == 1, reason="one CUDA device; tasks at once need two")
def test_tasks_at_once_see_a_gpu_each_and_no_other(tmp_path):
    with ray_backend(visit, on(N_GPUS)) as backend:
        found = visits(summaries(backend, tasks(N_GPUS, tmp_path, on(N_GPUS))))
    assert max(v.began for v in found) < min(v.ended for v in found)
    assert {(len(v.visible), len(v.uuids)) for v in found} == {(1, 1)}
    assert len({v.visible[0] for v in found}) == N_GPUS
    assert {v.uuids[0] for v in found} == {uuid(device) for device in range(N_GPUS)}


def test_tasks_given_to_one_gpu_together_take_turns(tmp_path):
    with ray_backend(visit, on(1), queue=1) as backend:
        first, second = visits(summaries(backend, tasks(2, tmp_path, on(1))))
    assert first.ended <= second.began
    assert len(first.visible) == len(second.visible) == 1
    assert first.uuids == second.uuids == [uuid(0)]


def cloud() -> Tensor:
    """Return points whose (K + 1)-th neighbour is separated from the next by 1e-3 squared, 20 float32 errors."""
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(8)).cuda()


def search(task: Task) -> list[Outcome]:
    """Save the candidates that the default engine proposes for `cloud`; the summary is the engine's name."""
    points = cloud()
    engine = default_engine(points.device, len(points))
    torch.save(tuple(engine(points, points, K + 1)), Path(task.lake, "candidates.pt"))
    return outcomes(task, engine.__name__)


def test_faiss_in_a_task_finds_the_neighbours_of_all_distances(tmp_path):
    faiss = pytest.importorskip("faiss")
    if not getattr(faiss, "get_num_gpus", int)():
        pytest.skip("the FAISS installed here sees no GPU")
    with ray_backend(search, on(1)) as backend:
        assert summaries(backend, tasks(1, tmp_path, on(1))) == [faiss_engine.__name__]
    squared, indices = torch.load(tmp_path / "candidates.pt")
    distances = torch.cdist(cloud(), cloud(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(K + 1, largest=False)  # each point is its own first
    assert torch.equal(indices.sort(1).values, nearest.indices.sort(1).values)
    torch.testing.assert_close(squared.sort(1).values, nearest.values.square(), rtol=0, atol=5e-4)
