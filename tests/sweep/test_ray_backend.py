"""Decisions of the Ray backend, on a fake Ray: placement, slots, memory, queueing, and the class of each failure."""

import os
import signal
import sys

import pytest
import ray
from ray import exceptions

from pipeline.errors import UsageError
from pipeline.sweep.ray_backend import RayBackend
from pipeline.sweep.task import Outcome, Task
from tests.support.fake_ray import GIB, FakeRay, cell_of_size, hub_task, open_backend, task

OK = [Outcome(cell_id="c")]
CELL = (cell_of_size(10**6),)


def steps(tasks: list[Task]) -> list[int | None]:
    return [one.checkpoint.step for one in tasks]


def measured(fake: FakeRay) -> list[int]:
    """Steps of the tasks submitted for measuring that have not ended."""
    return [one.step for one in fake.named("measure") if not one.ended]


def test_a_task_that_no_node_can_run_is_refused_with_what_the_nodes_have(monkeypatch):
    with pytest.raises(UsageError, match=r"no node has that much.*2 CPUs and 0 GPUs, 8 CPUs and 1 GPUs"):
        open_backend(monkeypatch, FakeRay({"CPU": 2}, {"CPU": 8, "GPU": 1}), cpus=16, slots=1, address="auto")


def test_the_callers_sigterm_handler_survives_the_start_and_end_of_ray(monkeypatch):
    """Ray's `init` installs a handler of its own, and its `shutdown` resets it."""
    before, fake = signal.getsignal(signal.SIGTERM), FakeRay({"CPU": 4})
    fake.init = lambda *_, **__: signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    fake.shutdown = lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        backend = open_backend(monkeypatch, fake)
        assert signal.getsignal(signal.SIGTERM) is before
        backend.close()
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_while_ray_starts_exits_143(monkeypatch):
    before, fake = signal.getsignal(signal.SIGTERM), FakeRay({"CPU": 4})

    def start(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    fake.init = start
    try:
        with pytest.raises(SystemExit) as left:
            open_backend(monkeypatch, fake)
        assert (left.value.code, signal.getsignal(signal.SIGTERM)) == (143, before)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_every_task_reserves_its_slots_share_of_the_smallest_nodes_memory(monkeypatch):
    fake = FakeRay({"CPU": 4, "memory": 8 * GIB}, {"CPU": 4, "memory": 16 * GIB}, {"CPU": 0, "memory": GIB})
    backend = open_backend(monkeypatch, fake)
    for step in range(4):
        backend.submit(task(step))
    assert [one.options["memory"] for one in fake.submitted] == [2 * GIB] * 4


def test_a_task_killed_for_its_memory_gets_that_of_another_slot(monkeypatch):
    fake = FakeRay({"CPU": 4, "memory": 8 * GIB})
    backend = open_backend(monkeypatch, fake)
    for step in range(4):
        backend.submit(task(step, memory_slots=2 if step == 0 else 1))
    assert [one.options["memory"] for one in fake.submitted] == [4 * GIB, 2 * GIB, 2 * GIB], "the fourth waits"


def test_a_single_slot_has_all_the_memory(monkeypatch):
    fake = FakeRay({"CPU": 4, "memory": 8 * GIB})
    open_backend(monkeypatch, fake, slots=1).submit(task(memory_slots=2))
    assert [one.options["memory"] for one in fake.submitted] == [8 * GIB]


def test_a_local_checkpoint_is_read_ahead_on_the_node_that_measures_it(monkeypatch):
    fake = FakeRay({"CPU": 4, "memory": 8 * GIB})
    backend = open_backend(monkeypatch, fake, ahead=1)
    backend.submit(task())
    (fetch,) = fake.submitted
    assert fetch.name == "fetch", "measuring waits for reading"
    fetch.finish([])
    assert backend.wait(0.0) == []
    (measure,) = fake.named("measure")
    assert measure.node == fetch.node


def test_while_every_node_is_lost_a_task_is_left_to_ray(monkeypatch):
    fake = FakeRay({"CPU": 4, "memory": 8 * GIB})
    backend = open_backend(monkeypatch, fake)
    fake.living.clear()
    backend.submit(task())
    assert [one.options["memory"] for one in fake.submitted] == [0]


def test_ray_is_given_the_queue_beyond_the_slots_and_measures_the_first_that_fit(monkeypatch):
    fake = FakeRay({"CPU": 2})
    backend = open_backend(monkeypatch, fake, queue=3, cpus=2, slots=2)
    assert backend.capacity == 5
    for step in range(6):
        backend.submit(task(step, memory_slots=2 if step == 0 else 1))
    assert measured(fake) == [0, 1, 2, 3], "one of two slots, and three queued"
    assert steps(backend.measuring) == [0], "which takes both slots"
    fake.submitted[0].finish(OK)
    ((done, _),) = backend.wait(0.0)
    assert done.checkpoint.step == 0
    assert steps(backend.measuring) == [1, 2]


def test_a_task_of_two_slots_waits_until_nothing_is_queued_before_it(monkeypatch):
    fake = FakeRay({"CPU": 2})
    backend = open_backend(monkeypatch, fake, queue=3, cpus=2, slots=2)
    backend.submit(task(0))
    backend.submit(task(1, memory_slots=2))
    backend.submit(task(2))
    assert measured(fake) == [0]


def test_withdraw_cancels_queued_tasks_but_neither_finished_nor_started_ones(monkeypatch):
    """A driver that was busy elsewhere: the first two of six have ended, and Ray has started the next two."""
    fake = FakeRay({"CPU": 2})
    backend = open_backend(monkeypatch, fake, queue=4, cpus=2, slots=2)
    for step in range(6):
        backend.submit(task(step))
    for one in fake.submitted[:2]:
        one.finish(OK)
    assert steps(backend.withdraw()) == [4, 5]
    assert [one.step for one in fake.cancelled] == [4, 5]
    finished = [done.checkpoint.step for _ in range(2) for done, _ in backend.wait(0.0)]
    assert sorted(finished) == [0, 1]
    assert steps(backend.measuring) == [2, 3]


def test_a_silent_node_is_named_and_its_question_cancelled(monkeypatch):
    fake = FakeRay({"CPU": 4}, {"CPU": 4})
    backend = open_backend(monkeypatch, fake, address="auto")
    fake.silent = {"n1"}
    with pytest.raises(UsageError, match="n1 does not answer"):
        backend.require_visible(["/corpora/text"])
    assert [one.node for one in fake.cancelled] == [fake.living[1]["NodeID"]]


def test_files_are_fetched_only_to_a_node_that_can_measure_them(monkeypatch):
    """The head has no CPU and could run a fetch, which needs none."""
    fake = FakeRay({"CPU": 0}, {"CPU": 4})
    open_backend(monkeypatch, fake).submit(hub_task())
    strategy = fake.submitted[0].options["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == (fake.living[1]["NodeID"], False)


def test_a_fetch_waits_for_a_node_that_can_measure(monkeypatch):
    fake = FakeRay({"CPU": 4})
    backend = open_backend(monkeypatch, fake)
    fake.living[0]["Resources"] = {"CPU": 0}
    backend.submit(hub_task())
    assert backend.wait(0.01) == []
    assert not fake.submitted
    fake.living[0]["Resources"] = {"CPU": 4}
    backend.wait(0.01)
    assert [(one.name, one.node) for one in fake.submitted] == [("fetch", fake.living[0]["NodeID"])]


def test_a_task_that_waits_for_a_node_can_be_withdrawn(monkeypatch):
    fake = FakeRay({"CPU": 4})
    backend = open_backend(monkeypatch, fake)
    fake.living.clear()
    backend.submit(hub_task())
    assert backend.withdraw() == [hub_task()]
    assert backend.wait(0.01) == []


def test_a_full_node_holds_up_only_its_own_tasks(monkeypatch):
    """Two tasks per node: the second task of the free node overtakes the second task of the full one."""
    fake = FakeRay({"CPU": 1}, {"CPU": 1})
    backend = open_backend(monkeypatch, fake, cpus=1, slots=1)
    monkeypatch.setattr(RayBackend, "slots", 2)
    for step in range(4):
        backend.submit(hub_task(step))
    fetches = fake.named("fetch")
    for fetch in fetches:
        fetch.finish([])
        backend.wait(0.0)
    assert [fetch.node for fetch in fetches] == [fetches[0].node, fetches[1].node] * 2
    assert measured(fake) == [0, 1]
    fake.named("measure")[1].finish(OK)
    backend.wait(0.0)
    assert measured(fake) == [0, 3]


@pytest.mark.parametrize("stage", ["fetch", "measure"])
def test_the_files_of_a_dead_worker_are_deleted_on_its_node(monkeypatch, stage):
    fake = FakeRay({"CPU": 4})
    backend = open_backend(monkeypatch, fake)
    backend.submit(hub_task(cells=CELL))
    if stage == "measure":
        fake.submitted[0].finish([])
        backend.wait(0.0)
    fake.named(stage)[0].finish(exceptions.WorkerCrashedError())
    ((_, (outcome,)),) = backend.wait(0.0)
    assert (outcome.error_class, outcome.host) == ("crash", "n0"), "the node's host, not the driver's"
    (discard,) = fake.named("discard")
    assert discard.node == fake.living[0]["NodeID"]


def test_the_next_attempt_does_not_go_to_the_lost_node(monkeypatch):
    """Although the node list is cached: within a second a task could be lost twenty times and given up."""
    fake = FakeRay({"CPU": 4}, {"CPU": 4})
    backend = open_backend(monkeypatch, fake)
    monkeypatch.setattr("pipeline.sweep.nodes.REFRESH_INTERVAL_S", 1000.0)
    backend.submit(hub_task(cells=CELL))
    lost = fake.submitted[0]
    fake.living[:] = [node for node in fake.living if node["NodeID"] != lost.node]
    lost.finish(exceptions.TaskUnschedulableError("the node is gone"))
    ((_, (outcome,)),) = backend.wait(0.0)
    assert outcome.error_class == "preempted"
    backend.submit(hub_task(cells=CELL))
    assert fake.submitted[-1].node == fake.living[0]["NodeID"] != lost.node


def test_a_successful_task_deletes_its_own_files(monkeypatch):
    fake = FakeRay({"CPU": 4})
    backend = open_backend(monkeypatch, fake)
    backend.submit(hub_task())
    fake.named("fetch")[0].finish([])
    backend.wait(0.0)
    fake.named("measure")[0].finish(OK)
    backend.wait(0.0)
    assert [one.name for one in fake.submitted] == ["fetch", "measure"]


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (exceptions.OutOfMemoryError("killed: 23 of 24 GB used, top 10 processes"), "host_oom"),
        (exceptions.WorkerCrashedError(), "crash"),
        (exceptions.NodeDiedError("gone"), "preempted"),
        (exceptions.ObjectLostError("ref", None, "stack"), "preempted"),
        (exceptions.TaskUnschedulableError("gone"), "preempted"),
        (exceptions.TaskCancelledError(), "timeout"),
        (exceptions.UnserializableException("two arguments"), "error"),
        (exceptions.RayTaskError("f", "trace", TypeError("cannot pickle"), "f"), "error"),
        (exceptions.RayTaskError("f", "trace", exceptions.TaskCancelledError(), "f"), "preempted"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_ray_exception_has_a_failure_class(monkeypatch, error, error_class):
    fake = FakeRay({"CPU": 4})
    backend = open_backend(monkeypatch, fake)
    backend.submit(task(cells=CELL))
    fake.submitted[0].finish(error)
    ((_, (outcome,)),) = backend.wait(0.0)
    assert outcome.error_class == error_class
    assert outcome.message


@pytest.mark.parametrize(
    ("timeout_s", "stack", "error_class"), [(1000, "x.py", "crash"), (1e-9, "x.py", "timeout"), (1e-9, "", "crash")]
)
def test_a_worker_that_died_after_its_timeout_and_left_a_stack_on_any_node_timed_out(
    monkeypatch, timeout_s, stack, error_class
):
    answers = {("read_stack", "n1"): stack}
    fake = FakeRay({"CPU": 4}, {"CPU": 4}, on_node=lambda name, host: answers.get((name, host), ""))
    monkeypatch.setattr("pipeline.sweep.ray_cluster.require_listener", lambda address: None)
    backend = open_backend(monkeypatch, fake, timeout_s=timeout_s, address="auto")
    backend.submit(task(cells=CELL))
    fake.named("measure")[0].finish(exceptions.WorkerCrashedError())
    ((_, (outcome,)),) = backend.wait(0.0)
    assert (outcome.error_class, outcome.traceback) == (error_class, stack if error_class == "timeout" else "")


def test_a_task_whose_watchdog_did_not_fire_is_cancelled_and_timed_out(monkeypatch):
    content = task().checkpoint.content
    fake = FakeRay({"CPU": 4}, on_node=lambda name, host: [content] if name == "find_stuck" else "")
    backend = open_backend(monkeypatch, fake, timeout_s=1e-9, address="auto")
    backend.submit(task(cells=CELL))
    assert backend.wait(0.0) == []
    (cancelled,) = fake.cancelled
    cancelled.finish(exceptions.WorkerCrashedError())
    ((_, (outcome,)),) = backend.wait(0.0)
    assert outcome.error_class == "timeout"


def test_ray_is_shut_down_when_the_backend_closes(monkeypatch):
    fake, closed = FakeRay({"CPU": 4}), []
    fake.shutdown = lambda: closed.append(True)
    open_backend(monkeypatch, fake).close()
    assert closed == [True]
    assert ray.shutdown is fake.shutdown
