"""Tests against the real Hub: `pytest -m network`."""

import pytest

from pipeline import lake as lakes
from pipeline.catalog.discovery import discover_histories
from pipeline.lake import Lake
from pipeline.spec import Hub, Sweep
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run

REPO = "EleutherAI/pythia-14m"
PUBLISHED = 154
"""Branches step0, step1, step2 ... step512, step1000 ... step143000 (EleutherAI/pythia, README)."""


@pytest.mark.network
def test_refs_of_the_smallest_pythia():
    (history,) = discover_histories(Hub(hub=REPO))
    steps = [checkpoint.step for checkpoint in history.checkpoints if checkpoint.step is not None]
    assert (len(steps), steps[0], steps[-1]) == (PUBLISHED, 0, 143000)


@pytest.mark.network
def test_three_steps_of_it_are_measured(tmp_path):
    lake = Lake(tmp_path / "lake")
    sweep = Sweep(
        name="live",
        checkpoints=(Hub(hub=REPO),),
        corpora=("random-uniform",),  # type: ignore[arg-type]
        recipe="quick@1",  # type: ignore[arg-type]
        steps="0,512,143000",
    )
    report = run(make_plan(sweep, lake), lake, "inline")
    assert (report.exit_code, report.committed) == (0, 3)
    rows = lakes.open_lake(lake.uri).sql("select step, count(*) from layers where status = 'ok' group by 1 order by 1")
    assert rows.fetchall() == [(0, 8), (512, 8), (143000, 8)]
