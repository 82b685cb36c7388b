"""A model that no node can hold is left out and reported once; the others are measured."""

from pipeline import render
from pipeline.lake import lake_status
from pipeline.sweep.driver import Driver
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run_progress import RunProgress
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import Scripted, refuse

WHY = "2 GPUs of 24 GB are needed in one node; the largest node has 1"


class Small(Scripted):
    """Backend without room for models named `large`."""

    def find_too_large(self, cells) -> dict[str, str]:
        return {cell.id: WHY for cell in cells if cell.checkpoint.model == "large"}


def drive(sweep, lake, work):
    plan = make_plan(sweep, lake)
    backend = Small(work)
    too_large = backend.find_too_large(plan.todo)
    return plan, Driver(plan, lake, backend, "run", RunProgress(len(plan.todo)), too_large).run()


def test_the_others_are_measured_and_what_is_left_out_is_listed_in_one_line(tmp_path, lake, capsys):
    small = stub.sweep(stub.history(tmp_path / "small", [0, 1, 2]))
    large = stub.sweep(stub.history(tmp_path / "large", [3, 4, 5]))
    both = small.model_copy(update={"checkpoints": small.checkpoints + large.checkpoints})
    plan, report = drive(both, lake, stub.work)
    assert (report.exit_code, report.committed, report.n_unfinished, report.failures) == (1, 3, 0, {})
    said = f"large: 3 cells left out: {WHY}"
    assert capsys.readouterr().err.count(said) == 1
    render.print_run_report(report, plan, lake.uri)
    told = " ".join(capsys.readouterr().out.split())
    assert f"LEFT OUT {said}" in told
    assert "--models" in told
    assert "3 of 6 wanted cells are in the lake, 3 new, 3 left out" in told
    (run,) = lake_status(lake)["runs"]
    assert (run["to_run"], run["left_out"]) == (3, [{"model": "large", "cells": 3, "why": WHY}])
    assert not lake.failure_counts(), "no fault of theirs"

    plan, report = drive(both, lake, refuse)
    assert (len(plan.todo), report.exit_code, report.committed) == (3, 1, 0)
