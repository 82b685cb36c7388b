"""Tasks of Ray on real GPUs: memory goes with its task, no two share a device, and FAISS finds neighbours there.

Ray is asked for when a test begins: without it this file is collected, and skipped.
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
from tests import real
from tests.gpu.test_gpu import cell

if TYPE_CHECKING:
    from pipeline.sweep.ray_backend import RayBackend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
N_GPUS = torch.cuda.device_count()
HELD_BYTES, SLACK_BYTES = 2 * 10**9, 10**8
GONE_S, MEET_S = 20.0, 12.0
"""Most that a process may take to end, and by how much tasks given together may begin apart, per GPU."""
N, DIM, K = 2000, 64, 10
HELD: list[Tensor] = []
"""For as long as its process lives."""


@pytest.fixture(autouse=True)
def _ray() -> None:
    pytest.importorskip("ray")


def opened(measure: TaskFunction, resources: Resources, queue: int = 0) -> "AbstractContextManager[RayBackend]":
    from pipeline.sweep.ray_backend import RayBackend

    return closing(RayBackend(TaskFunctions(lambda task: [], measure, lambda task: None), resources, queue=queue))


def on(gpus: int) -> Resources:
    return Resources(gpus=gpus, cpus=gpus, address="local")


def tasks(n: int, folder: Path, resources: Resources) -> list[Task]:
    """Of checkpoints that nobody opens; `folder` is theirs to leave notes in."""
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


def said(backend: "RayBackend", given: list[Task]) -> list[str]:
    """What each of these tasks, all given at once, has to say."""
    assert len(given) <= backend.capacity
    for task in given:
        backend.submit(task)
    told: list[str] = []
    while len(told) < len(given):
        for _, (outcome,) in backend.wait(1.0):
            assert outcome.ok, outcome.message + outcome.traceback
            told.append(outcome.summary)
    return told


def say(task: Task, *words: object) -> list[Outcome]:
    return [Outcome(cell_id=cell.id, summary=" ".join(map(str, words))) for cell in task.cells]


def used_bytes() -> int:
    """Of the first device, by all processes together."""
    free, total = torch.cuda.mem_get_info(0)
    return total - free


def hold(task: Task) -> list[Outcome]:
    """Take memory for good; how much is used then."""
    HELD.append(torch.empty(HELD_BYTES, dtype=torch.uint8, device="cuda"))
    return say(task, used_bytes())


def test_the_memory_of_a_task_is_free_once_it_has_come_back(tmp_path):
    before = used_bytes()
    with opened(hold, on(1)) as backend:
        (then,) = said(backend, tasks(1, tmp_path, on(1)))
        assert int(then) >= before + HELD_BYTES
        until = time.monotonic() + GONE_S
        while used_bytes() > before + SLACK_BYTES:  # while Ray is there, which would end every worker as it goes
            assert time.monotonic() < until, f"{used_bytes() - before} bytes are still held"
            time.sleep(0.1)


def starved(task: Task) -> list[Outcome]:
    """Measure, on a device that is full."""
    from pipeline.sweep import worker  # and with it the lake's packages

    size, _ = torch.cuda.mem_get_info(0)
    while size:
        try:
            HELD.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    return worker.run_task(task)


def test_what_finds_no_room_on_the_device_is_out_of_memory(tmp_path):
    wanted = cell(real.checkpoint(tmp_path / "step1", seed=1))
    task = Task(lake=str(tmp_path), run_id="run", checkpoint=wanted.checkpoint, cells=(wanted,), resources=on(1))
    with opened(starved, on(1)) as backend:
        backend.submit(task)
        while not (done := backend.wait(1.0)):
            pass
    ((_, (outcome,)),) = done
    assert outcome.error_class == "oom"
    assert "CUDA out of memory" in outcome.message


class Visit(NamedTuple):
    """When a task ran, and on what."""

    began: float
    ended: float
    visible: list[str]
    uuids: list[str]


def uuid(device: int) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def visit(task: Task) -> list[Outcome]:
    """Wait for a task on every GPU, of one GPU for a second task: as long as it may take to begin, were there room."""
    began, folder, gpus = time.time(), Path(task.lake), task.resources.gpus
    (folder / task.checkpoint.revision).touch()
    while len(list(folder.iterdir())) < max(gpus, 2) and time.time() < began + gpus * MEET_S:
        time.sleep(0.05)
    uuids = [uuid(device) for device in range(torch.cuda.device_count())]
    return say(task, began, time.time(), os.environ["CUDA_VISIBLE_DEVICES"], *uuids)


def visits(told: list[str]) -> list[Visit]:
    """In the order in which they began."""
    words = [one.split(" ") for one in told]
    return sorted(Visit(float(w[0]), float(w[1]), w[2].split(","), w[3:]) for w in words)


@pytest.mark.skipif(N_GPUS == 1, reason="one CUDA device; tasks at once need two")
def test_tasks_at_once_see_a_gpu_each_and_no_other(tmp_path):
    with opened(visit, on(N_GPUS)) as backend:
        found = visits(said(backend, tasks(N_GPUS, tmp_path, on(N_GPUS))))
    assert max(one.began for one in found) < min(one.ended for one in found)
    assert {(len(one.visible), len(one.uuids)) for one in found} == {(1, 1)}
    assert len({one.visible[0] for one in found}) == N_GPUS
    assert {one.uuids[0] for one in found} == {uuid(device) for device in range(N_GPUS)}


def test_tasks_given_to_one_gpu_together_take_turns(tmp_path):
    with opened(visit, on(1), queue=1) as backend:
        first, second = visits(said(backend, tasks(2, tmp_path, on(1))))
    assert first.ended <= second.began
    assert len(first.visible) == len(second.visible) == 1
    assert first.uuids == second.uuids == [uuid(0)]


def cloud() -> Tensor:
    """With this seed no point that is left out is nearer than 1e-3 to being in, squared: 20 errors of float32."""
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(8)).cuda()


def search(task: Task) -> list[Outcome]:
    """Leave what the engine of a run proposes for `cloud`; which one that is."""
    points = cloud()
    engine = default_engine(points.device)
    torch.save(tuple(engine(points, points, K + 1)), Path(task.lake, "candidates.pt"))
    return say(task, engine.__name__)


def test_faiss_in_a_task_finds_the_neighbours_of_all_distances(tmp_path):
    faiss = pytest.importorskip("faiss")
    if not getattr(faiss, "get_num_gpus", int)():
        pytest.skip("the FAISS installed here sees no GPU")
    with opened(search, on(1)) as backend:
        assert said(backend, tasks(1, tmp_path, on(1))) == [faiss_engine.__name__]
    squared, indices = torch.load(tmp_path / "candidates.pt")
    distances = torch.cdist(cloud(), cloud(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(K + 1, largest=False)  # each point is its own first
    assert torch.equal(indices.sort(1).values, nearest.indices.sort(1).values)
    torch.testing.assert_close(squared.sort(1).values, nearest.values.square(), rtol=0, atol=5e-4)
