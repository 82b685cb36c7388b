"""Utilization: share of the slots' time in forward passes and metrics, and slot time lost to downloads."""

import time

import pytest

from pipeline.lake import Lake
from pipeline.sweep.backend import InlineBackend, TaskFunctions
from pipeline.sweep.driver import Driver
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.run_progress import RunProgress, Utilization
from pipeline.sweep.task import Outcome
from tests.support import stub_checkpoints as stub

EMPTY_STATUS = {"models": [], "failures": [], "quarantined": [], "lake": ""}


def test_the_share_is_of_all_slots_and_follows_a_cluster_that_grows():
    now = [0.0]
    busy = Utilization(lambda: now[0])
    assert busy.share is None
    for seconds, slots in ((10.0, 1), (10.0, 3)):
        now[0] += seconds
        busy.add_slot_time(slots)
    busy.add_compute_time(7.0)
    busy.add_compute_time(3.0)
    assert busy.share == pytest.approx(10 / 40)


def test_a_run_records_it_and_status_shows_it(tmp_path, capsys):
    """Every cell reports a millisecond of compute time."""
    from pipeline.render import sweeps

    def work(task) -> list[Outcome]:
        return [o.model_copy(update={"compute_s": 1e-3}) for o in stub.work(task)]

    lake = Lake(tmp_path / "lake")
    run(
        make_plan(stub.sweep(stub.history(tmp_path / "runs", [1, 2])), lake),
        lake,
        "inline",
        work,
    )
    (record,) = lake.runs()
    assert 0 < record["busy"] <= 1
    sweeps.print_status(EMPTY_STATUS | {"runs": [{**record, "busy": 0.876}]}, failed=False)
    assert "slots busy 88%" in " ".join(capsys.readouterr().out.split())


def test_a_run_records_how_long_slots_were_free_for_want_of_files(tmp_path, capsys):
    from pipeline.render import sweeps

    fetch_s, measure_s = 0.3, 0.6

    def fetch(task) -> list[Outcome]:
        time.sleep(fetch_s)
        return []

    def measure(task) -> list[Outcome]:
        time.sleep(measure_s)
        return stub.work(task)

    lake = Lake(tmp_path / "lake")
    plan = make_plan(stub.sweep(stub.history(tmp_path / "runs", [1, 2, 3])), lake)
    backend = InlineBackend(TaskFunctions(fetch, measure, lambda task: None), ahead=1)
    Driver(plan, lake, backend, "run", RunProgress(3), {}).run()
    (record,) = lake.runs()
    assert fetch_s - 0.05 <= record["gpu_wait_s"] < 3 * fetch_s, "for the first alone: the others came meanwhile"
    sweeps.print_status(
        {"models": [], "runs": [{**record, "gpu_wait_s": 12.3}], "failures": [], "quarantined": [], "lake": ""},
        failed=False,
    )
    assert "slots idle 12 s" in " ".join(capsys.readouterr().out.split())
