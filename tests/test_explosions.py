"""Arithmetic of the explosions study on traces with a known answer; only the slow test trains."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from jobs.explosions import detectors, table
from jobs.explosions.detectors import Detector, first_alarm, lead, robust_z, threshold
from jobs.explosions.disturbances import CALM, INDUCED, STEPS, disturbance
from jobs.explosions.traces import runs
from jobs.explosions.training import Run, trace

GRADIENT = Detector("gradient norm rises", ("gradient",), 1)
QUIET = np.array([1.0, 1.1, 0.9, 1.05, 0.95] * 200)


def make_trace(run: Run, jump: int | None = None, event: int | None = None) -> pl.DataFrame:
    """Return a quiet trace whose gradient jumps at step `jump` and whose loss explodes at step `event`, its end."""
    length = STEPS if event is None else event + 1
    gradient, loss = QUIET[:length].copy(), QUIET[:length].copy() + 2
    gradient[length if jump is None else jump :] *= math.e
    loss[length if event is None else event :] = 50.0
    ids = {name: QUIET[run.seed : run.seed + length] for detector in detectors.DETECTORS for name in detector.columns}
    return pl.DataFrame({"step": range(length), **ids, "gradient": gradient, "loss": loss})


def test_z_is_robust_and_zero_for_a_short_past():
    past = np.array([9.0, 10.0, 11.0] * 6)
    assert robust_z(13.0, past) == pytest.approx(3 / 1.4826)
    assert robust_z(13.0, np.append(past, [1e9, -1e9])) == pytest.approx(3 / 1.4826)
    assert robust_z(13.0, past[:15]) == 0.0
    assert robust_z(13.0, np.full(16, 10.0)) == pytest.approx(3 / detectors.FLOOR)


def test_a_score_uses_no_later_step():
    whole = make_trace(Run("constant", 0), jump=220)
    steps, scores = GRADIENT.scores(whole)
    before = GRADIENT.scores(whole.filter(pl.col("step") < 230))
    assert steps[0] == detectors.EARLIEST
    assert np.array_equal(scores[: len(before[1])], before[1])
    assert steps[scores.argmax()] == 221  # 1.1, the largest of QUIET's five values, falls on steps that end in 1 and 6


def test_a_threshold_lets_at_most_its_share_of_the_calm_runs_alarm():
    calm = [make_trace(Run("constant", 0), jump=200 + i if i < 3 else None) for i in range(10)]
    for share, alarms in ((0.1, 1), (0.25, 2), (0.35, 3)):
        above = threshold(GRADIENT, calm, share)
        assert sum(first_alarm(GRADIENT, run, above) is not None for run in calm) <= alarms


@pytest.mark.parametrize(("jump", "steps"), [(200, 30), (229, 1), (230, 0), (173, 57), (172, 0), (165, 0)])
def test_a_lead_counts_alarms_that_begin_after_a_disturbed_update_and_before_the_event(jump, steps):
    run = Run("rate-ramp", 0)
    assert run.start == 172
    assert lead(GRADIENT, run, make_trace(run, jump, event=230), 5.0) == steps


def test_an_alarm_that_ends_and_begins_again_after_the_disturbance_warns():
    run, step = Run("rate-ramp", 0), pl.col("step")
    twice = pl.when(step.is_between(165, 180) | (step >= 210)).then(pl.lit(math.e)).otherwise(pl.lit(1.0))
    assert lead(GRADIENT, run, make_trace(run, event=230).with_columns(gradient=twice), 5.0) == 20


@pytest.mark.parametrize("first", [0, 1, 100])
def test_no_two_runs_share_a_seed(first):
    wanted = runs(8, first)
    assert len({run.seed for run in wanted}) == len(wanted) == 96
    assert {run.seed % 2 for run in wanted if run.is_induced} == {0}
    assert not {run.seed for run in wanted} & {run.seed for run in runs(8, first + 8)}


def test_no_two_runs_share_their_bad_batches():
    batch = torch.zeros(12, 32, dtype=torch.long)
    first, again, other = (disturbance("bad-batches", seed).batch(1, batch) for seed in (0, 0, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first[:6], other[:6])


def test_wilsons_interval():
    assert table.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert table.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)


def test_half_of_each_calm_kind_sets_the_thresholds_and_no_other_run():
    wanted = runs(8)
    assert len(set(wanted)) == 96
    training = [run for run in wanted if table.is_training(run)]
    assert {kind: sum(run.kind == kind for run in training) for kind in CALM} == dict.fromkeys(CALM, 6)
    assert not any(run.is_induced for run in training)
    assert runs(3) == wanted[: len(runs(3))]  # more seeds only append runs


def test_the_table_counts_warnings_and_leads():
    traces = {}
    for run in runs(2):
        event = run.start + (1 if run.kind == "adam-restart" else 40)
        exploded = run.is_induced and run.kind != "low-precision"
        traces[run] = make_trace(run, event - 20, event) if exploded else make_trace(run)
    counts = list(table.about(traces))
    assert "- rate-ramp: 2 of 2 exploded, 0 before a reading, the others after 40 to 40 steps" in counts
    assert "- adam-restart: 2 of 2 exploded, 2 before a reading" in counts
    assert "- low-precision: 0 of 2 exploded, 0 before a reading" in counts
    assert counts[-1].startswith("- calm: 12 runs, 0 spikes in ")
    lines = list(table.markdown(traces, 0.1))
    (cells,) = [line.split(" | ") for line in lines if line.startswith("| gradient")][:1]
    assert cells[3:5] == ["8 of 8 (68% to 100%)", "20.0 (20.0 to 20.0)"]
    (loss,) = [line.split(" | ") for line in lines if line.startswith("| loss")][:1]
    assert loss[3].startswith("0 of 8")
    assert loss[6].startswith("-20.0 (-20.0 to -20.0)")
    assert lines[-1].split(" | ")[1:4] == ["0 of 2", "0 of 2", "0 of 0"]
    assert len(INDUCED) == 6


@pytest.mark.slow
def test_a_run_is_determined_by_its_seed(monkeypatch):
    monkeypatch.setattr("jobs.explosions.training.STEPS", 45)
    first, second = (list(trace(Run("constant", 3))) for _ in range(2))
    assert first == second
    assert [row["step"] for row in first if "id_mle_1" in row] == [32, 40]
