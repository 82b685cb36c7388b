"""A sweep without measurable checkpoints gives a plan with reasons instead of an error."""

import pytest

from pipeline import render
from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.spec import Hub, Members, Sweep
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.support.fake_hub import FakeHub
from tests.support.hub_folders import README, pythia


def sweep(*sources: Hub | Members, **changes: str) -> Sweep:
    fields = {"name": "t", "checkpoints": sources, "corpora": ["random-uniform"], "recipe": "quick@1", **changes}
    return Sweep.model_validate(fields)


@pytest.mark.parametrize("steps", ["all", "last", "log2", "every:1000", "512"])
def test_nothing_to_measure_is_a_plan_that_says_why(hub: FakeHub, tmp_path, capsys, steps: str) -> None:
    pythia(hub).gated = True
    hub.repo("lab/about").commit(dict(README))
    sources = (Hub(hub="EleutherAI/pythia-14m"), Hub(hub="lab/about"), Members(family="pythia", models="*-31m"))
    lake = Lake(tmp_path / "lake")
    plan = make_plan(sweep(*sources, steps=steps), lake)
    assert (plan.checkpoints, plan.cells) == ((), ())
    assert plan.to_json()["models"] == {h.model: [] for h in plan.histories}
    render.print_plan(plan, lake.uri)
    output = " ".join(capsys.readouterr().out.split())
    assert "EleutherAI/pythia-14m: nothing to measure: gated, and access is not granted (GATED 4)" in output
    assert "lab/about: nothing to measure: neither model.safetensors nor pytorch_model.bin" in output
    assert "EleutherAI/pythia-31m: nothing to measure: no such repo" in output
    assert "cells 0 wanted" in output
    assert run(plan, lake, "inline").exit_code == 0


def test_a_history_that_the_steps_leave_out_is_told(hub: FakeHub, tmp_path, capsys) -> None:
    pythia(hub)
    pythia(hub, "EleutherAI/pythia-31m", (0, 1000))
    plan = make_plan(sweep(Members(family="pythia", models="*m"), steps="1000", models="pythia-[13]*m"), Lake(tmp_path))
    assert [c.label for c in plan.checkpoints] == ["EleutherAI/pythia-31m@step1000"]
    render.print_plan(plan, "lake")
    output = " ".join(capsys.readouterr().out.split())
    assert "EleutherAI/pythia-14m: 0 of 4 checkpoints match --steps 1000, steps 0 to 512 (" in output
    assert "EleutherAI/pythia-31m: 1 checkpoints, steps 1000 to 1000" in output


@pytest.mark.parametrize("source", [Hub(hub="EleutherAI/pythia-14m"), Members(family="pythia")])
def test_a_model_is_chosen_with_or_without_its_owner(hub: FakeHub, tmp_path, source: Hub | Members) -> None:
    pythia(hub)
    for glob in ("pythia-14m", "pythia-14*", "EleutherAI/pythia-14m"):
        plan = make_plan(sweep(source, models=glob), Lake(tmp_path))
        assert {c.model for c in plan.checkpoints} == {"EleutherAI/pythia-14m"}
    with pytest.raises(UsageError, match="none of"):
        make_plan(sweep(source, models="pythia-15m"), Lake(tmp_path))
