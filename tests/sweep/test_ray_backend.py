"""The Ray backend's own decisions, on a Ray that only takes notes."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
from ray import exceptions

from pipeline.errors import UsageError
from pipeline.sweep import ray_backend
from pipeline.sweep.ray_backend import RayBackend
from pipeline.sweep.task import Outcome, Task
from tests.sweep.notes import GIB, Notes, backend, cell_of, of_the_hub, task


def test_what_no_node_can_run_is_refused_with_what_the_nodes_have(monkeypatch):
    with pytest.raises(UsageError, match=r"no node has that much.*2 CPUs and 0 GPUs, 8 CPUs and 1 GPUs"):
        backend(monkeypatch, Notes({"CPU": 2}, {"CPU": 8, "GPU": 1}), cpus=16, slots=1, address="auto")


def test_sigterm_is_the_callers_again_whatever_ray_makes_of_it(monkeypatch):
    """As Ray does: its `init` sets a handler of its own, and its `shutdown` none."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray_backend.ray, "shutdown", lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    notes = Notes({"CPU": 4})
    notes.init = lambda *_, **__: signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    try:
        opened = backend(monkeypatch, notes)
        assert signal.getsignal(signal.SIGTERM) is before
        opened.close()
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_while_ray_starts_has_the_shells_exit_code_for_it(monkeypatch):
    before, notes = signal.getsignal(signal.SIGTERM), Notes({"CPU": 4})

    def begin(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    notes.init = begin
    try:
        with pytest.raises(SystemExit) as left:
            backend(monkeypatch, notes)
        assert (left.value.code, signal.getsignal(signal.SIGTERM)) == (143, before)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_every_task_has_its_slots_share_of_the_smallest_nodes_memory(monkeypatch):
    notes = Notes({"CPU": 4, "memory": 8 * GIB}, {"CPU": 4, "memory": 16 * GIB}, {"CPU": 0, "memory": GIB})
    opened = backend(monkeypatch, notes)
    for step in range(4):
        opened.submit(task(step))
    assert [options["memory"] for options in notes.submitted] == [2 * GIB] * 4


def test_a_task_killed_for_its_memory_gets_that_of_another_slot(monkeypatch):
    notes = Notes({"CPU": 4, "memory": 8 * GIB})
    opened = backend(monkeypatch, notes)
    for step in range(4):
        opened.submit(task(step, memory_slots=2 if step == 0 else 1))
    assert [options["memory"] for options in notes.submitted] == [4 * GIB, 2 * GIB, 2 * GIB], "the fourth waits"


def test_one_slot_has_all_the_memory_there_is(monkeypatch):
    notes = Notes({"CPU": 4, "memory": 8 * GIB})
    backend(monkeypatch, notes, slots=1).submit(task(memory_slots=2))
    assert [options["memory"] for options in notes.submitted] == [8 * GIB]


def test_a_local_checkpoint_is_read_ahead_on_the_node_that_will_measure_it(monkeypatch):
    notes = Notes({"CPU": 4, "memory": 8 * GIB})
    opened = backend(monkeypatch, notes)
    opened._ahead = 1
    opened.submit(task())
    (options,) = notes.submitted
    assert "memory" not in options, "the measuring waits for the reading"
    (ref,) = opened._fetching
    assert opened._collect_finished(ref) is None
    opened._start()
    assert notes.submitted[1]["scheduling_strategy"].node_id == options["scheduling_strategy"].node_id


def test_while_every_node_is_lost_a_task_waits_for_another(monkeypatch):
    notes = Notes({"CPU": 4, "memory": 8 * GIB})
    opened = backend(monkeypatch, notes)
    notes.living.clear()
    opened.submit(task())
    assert [options["memory"] for options in notes.submitted] == [0]


def test_ray_holds_as_many_more_as_the_queue_and_what_is_begun_are_the_first_by_their_shares(monkeypatch):
    notes = Notes({"CPU": 2})
    opened = backend(monkeypatch, notes, queue=3, cpus=2, slots=2)
    assert opened.capacity == 5
    for step in range(6):
        opened.submit(task(step, memory_slots=2 if step == 0 else 1))
    assert len(notes.submitted) == 4, "of two shares, and one each"
    assert [one.checkpoint.step for one in opened.measuring] == [0], "which has both slots"
    ended = next(iter(opened._running))
    notes.ended, notes.answer = [ended], [Outcome(cell_id="c")]
    ((done, _),) = opened.wait(0.0)
    assert done.checkpoint.step == 0
    assert [one.checkpoint.step for one in opened.measuring] == [1, 2]


def test_a_task_of_two_shares_waits_until_nothing_is_queued_before_it(monkeypatch):
    notes = Notes({"CPU": 2})
    opened = backend(monkeypatch, notes, queue=3, cpus=2, slots=2)
    opened.submit(task(0))
    opened.submit(task(1, memory_slots=2))
    opened.submit(task(2))
    assert [one.task.checkpoint.step for one in opened._running.values()] == [0]


def test_what_has_ended_unseen_is_not_taken_back_and_those_which_run_now_are_not_cancelled(monkeypatch):
    """A driver that was busy elsewhere: the first two of six have ended, the next two have been begun."""
    notes = Notes({"CPU": 2})
    opened = backend(monkeypatch, notes, queue=4, cpus=2, slots=2)
    for step in range(6):
        opened.submit(task(step))
    refs = list(opened._running)
    notes.ended, notes.answer = refs[:2], [Outcome(cell_id="c")]
    assert [one.checkpoint.step for one in opened.withdraw()] == [4, 5]
    assert notes.cancelled == refs[4:]
    finished = {done.checkpoint.step for _ in range(2) for done, _ in opened.wait(0.0)}
    assert finished <= {0, 1}
    assert [one.task.checkpoint.step for one in opened._running.values()][-2:] == [2, 3]


def test_a_node_that_is_silent_is_named_and_the_others_are_heard(monkeypatch):
    notes = Notes({"CPU": 4}, {"CPU": 4})
    opened = backend(monkeypatch, notes, address="auto")
    asked: list[object] = []

    def wait(refs: list[object], num_returns: int, timeout: float):
        asked.extend(refs)
        return refs[:1], refs[1:]

    monkeypatch.setattr(ray_backend.ray, "wait", wait)
    with pytest.raises(UsageError, match="n1 does not say"):
        opened.require_visible(["/corpora/text"])
    assert notes.cancelled[-1] is asked[-1]


def test_what_is_fetched_goes_to_a_node_that_measures_it_and_to_no_other(monkeypatch):
    """The head has no CPU and would take a fetch, which needs none."""
    notes = Notes({"CPU": 0}, {"CPU": 4})
    opened = backend(monkeypatch, notes)
    opened.submit(of_the_hub())
    strategy = notes.submitted[0]["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == (notes.living[1]["NodeID"], False)


def test_while_there_is_no_such_node_a_fetch_waits_for_one(monkeypatch):
    notes = Notes({"CPU": 4})
    opened = backend(monkeypatch, notes)
    notes.living[0]["Resources"] = {"CPU": 0}
    opened.submit(of_the_hub())
    assert opened.wait(0.01) == []
    assert not notes.submitted
    notes.living[0]["Resources"] = {"CPU": 4}
    opened.wait(0.01)
    assert [options["scheduling_strategy"].node_id for options in notes.submitted] == [notes.living[0]["NodeID"]]
    assert not opened._to_fetch


def test_what_waits_for_a_node_can_be_withdrawn(monkeypatch):
    notes = Notes({"CPU": 4})
    opened = backend(monkeypatch, notes)
    notes.living.clear()
    opened.submit(of_the_hub())
    assert opened.withdraw() == [of_the_hub()]
    assert opened.wait(0.01) == []


def test_a_node_that_is_full_holds_up_its_own_tasks_alone(monkeypatch):
    """Of two tasks on each of two nodes the second of the free node passes the second of the full one."""
    notes = Notes({"CPU": 1}, {"CPU": 1})
    opened = backend(monkeypatch, notes, cpus=1, slots=1)
    monkeypatch.setattr(RayBackend, "slots", 2)
    for step in range(4):
        opened.submit(of_the_hub(step))
    notes.answer = []
    for ref in tuple(opened._fetching):
        opened._collect_finished(ref)
    opened._start()
    first, other = (one.task for one in opened._running.values())
    nodes = {
        task.checkpoint.step: opened._nodes.find_node(task.checkpoint.content)
        for task in (first, other, *opened._ready)
    }
    assert [nodes[step] for step in range(4)] == [nodes[0], nodes[1]] * 2
    notes.answer = [Outcome(cell_id="c")]
    opened._collect_finished(next(ref for ref, one in opened._running.items() if one.task is other))
    opened._start()
    assert {one.task.checkpoint.step for one in opened._running.values()} == {0, 3}


@pytest.mark.parametrize("stage", ["fetching", "measuring"])
def test_a_worker_that_died_leaves_no_files_on_its_node(monkeypatch, stage):
    notes = Notes({"CPU": 4})
    opened = backend(monkeypatch, notes)
    opened.submit(of_the_hub(cells=(cell_of(10**6),)))
    if stage == "measuring":
        notes.answer = []
        assert opened._collect_finished(next(iter(opened._fetching))) is None
        opened._start()
    before = len(notes.submitted)
    notes.answer = exceptions.WorkerCrashedError()
    _, (outcome,) = opened._collect_finished(next(iter(opened._fetching or opened._running)))
    assert (outcome.error_class, outcome.host) == ("crash", "n0"), "the node's name, not the driver's"
    (discard,) = notes.submitted[before:]
    assert discard["scheduling_strategy"].node_id == notes.living[0]["NodeID"]


def test_the_next_try_is_not_given_to_the_node_that_was_lost(monkeypatch):
    """Though nodes are asked for once a second: within it a task could be lost twenty times, and given up."""
    notes = Notes({"CPU": 4}, {"CPU": 4})
    opened = backend(monkeypatch, notes)
    monkeypatch.setattr("pipeline.sweep.nodes.REFRESH_INTERVAL_S", 1000.0)
    opened.submit(of_the_hub(cells=(cell_of(10**6),)))
    lost = notes.submitted[0]["scheduling_strategy"].node_id
    notes.living[:] = [node for node in notes.living if node["NodeID"] != lost]
    notes.answer = exceptions.TaskUnschedulableError("the node is gone")
    (ref,) = opened._fetching
    _, (outcome,) = opened._collect_finished(ref)
    assert outcome.error_class == "preempted"
    opened.submit(of_the_hub(cells=(cell_of(10**6),)))
    assert notes.submitted[-1]["scheduling_strategy"].node_id == notes.living[0]["NodeID"] != lost


def test_what_went_well_has_removed_its_own_files(monkeypatch):
    notes = Notes({"CPU": 4})
    opened = backend(monkeypatch, notes)
    opened.submit(of_the_hub())
    notes.answer = []
    opened._collect_finished(next(iter(opened._fetching)))
    opened._start()
    before, notes.answer = len(notes.submitted), [Outcome(cell_id="c")]
    opened._collect_finished(next(iter(opened._running)))
    assert len(notes.submitted) == before


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
def test_what_ray_says_of_a_task_has_a_class(monkeypatch, error, error_class):
    notes = Notes({"CPU": 4})
    opened = backend(monkeypatch, notes)
    lost = Task.model_construct(**{**dict(task()), "cells": (SimpleNamespace(id="c"),)})
    notes.answer = error
    (outcome,) = opened._outcomes("ref", lost, 0.0)
    assert outcome.error_class == error_class
    assert outcome.message


@pytest.mark.parametrize(
    ("elapsed_s", "stack", "error_class"), [(9, "x.py", "crash"), (11, "x.py", "timeout"), (11, "", "crash")]
)
def test_a_worker_that_died_after_its_time_and_left_a_stack_on_any_node_was_stuck(
    monkeypatch, elapsed_s, stack, error_class
):
    notes = Notes({"CPU": 4}, {"CPU": 4})
    opened = backend(monkeypatch, notes, timeout_s=10)
    lost = Task.model_construct(**{**dict(task()), "cells": (SimpleNamespace(id="c"),)})
    notes.answer = exceptions.WorkerCrashedError()
    monkeypatch.setattr(opened, "_ask_nodes", lambda *_: [("n0", ""), ("n1", stack)])
    (outcome,) = opened._outcomes("ref", lost, elapsed_s)
    assert (outcome.error_class, outcome.traceback) == (error_class, stack if error_class == "timeout" else "")
