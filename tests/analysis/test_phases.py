"""Findings `phases`, `estimators`, `agreement` and `nulls` on histories with known verdicts."""

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.phases import ESTIMATORS, classify_by_estimator, compute_agreement, compute_phases
from pipeline.analysis.random_baselines import compute_null_survival
from tests.support import finding_rows

KNOWN = {
    "dome": "expand-compress",
    "late": "expand-compress",
    "plateau": "expand",
    "rising": "expand",
    "falling": "compress",
    "valley": "compress-expand",
    "noise": "flat",
}


@pytest.mark.parametrize("shape", KNOWN)
def test_a_history_of_a_known_shape(shape):
    found = compute_phases(finding_rows.frame(finding_rows.training(shape)))
    assert found["layer"].to_list() == [1, 2, None], "layers first, then the model"
    assert found["verdict"].to_list() == [KNOWN[shape]] * 3
    assert (found["agreeing"] >= 3).all()
    assert found["estimators"].to_list() == [len(ESTIMATORS)] * 3
    assert found["because"].str.starts_with("Layer 1 ").to_list() == [True, False, False]


@pytest.mark.parametrize(("shape", "peak"), [("dome", 6.5), ("late", 11.05)])
def test_the_step_of_the_peak_and_its_interval(shape, peak):
    found = compute_phases(finding_rows.frame(finding_rows.training(shape)))
    nearest = {finding_rows.STEPS[int(np.floor(peak))], finding_rows.STEPS[int(np.ceil(peak))]}
    for row in found.to_dicts():
        assert row["peak_step_low"] <= row["peak_step"] <= row["peak_step_high"]
        assert any(row["peak_step_low"] <= step <= row["peak_step_high"] for step in nearest)
        assert row["peak_value"] == pytest.approx(14, rel=0.1)
        # The peak is at 0.7, the ends are at 0.3.
        assert row["height_low"] < 0.7 / 0.3 - 1 < row["height_high"]


def test_an_untrained_start_above_the_peak_does_not_hide_it():
    rows = [
        row | dict.fromkeys(finding_rows.HEADLINES, 30.0) if row["step"] == 0 else row
        for row in finding_rows.training("late", 1)
    ]
    twonn = classify_by_estimator(finding_rows.frame(rows)).filter(estimator="id_twonn", layer=1).row(0, named=True)
    assert twonn["verdict"] == "expand-compress"
    assert twonn["peak_step"] > 0
    assert twonn["peak_step_low"] > 0


def test_two_estimators_are_not_enough():
    one = finding_rows.frame(finding_rows.training("dome", layers=1))
    other = finding_rows.frame(finding_rows.training("rising", layers=1))
    borrowed = [f"{name}{end}" for name in ("id_mle_c50", "id_mle_c90") for end in ("", "_se")]
    mixed = one.with_columns(other[borrowed]).with_columns(other["id_gride"])
    assert compute_phases(mixed).filter(layer=1)["verdict"].to_list() == ["expand"], "four of six"
    half = one.with_columns(other["id_mle_c50", "id_mle_c50_se"]).with_columns(other["id_gride"])
    assert compute_phases(half).filter(layer=1)["verdict"].to_list() == ["disputed"], "three against three"
    headlines = [f"{name}{end}" for name in finding_rows.HEADLINES[2:] for end in ("", "_se")]
    few = one.with_columns(pl.lit(None).cast(one.schema[name]).alias(name) for name in (*headlines, "id_gride"))
    found = compute_phases(few).filter(layer=1).row(0, named=True)
    assert (found["verdict"], found["agreeing"], found["estimators"]) == ("disputed", 2, 2)


def test_without_errors_the_highest_step_is_given_and_no_verdict():
    for frame in (
        finding_rows.frame(finding_rows.training("dome", groups=1)),
        finding_rows.frame(finding_rows.training("dome", groups=None)),
    ):
        found = compute_phases(frame)
        assert set(found["verdict"]) == {"no_errors"}
        assert found["peak_step"].is_between(16, 128).all()
        assert found["peak_step_low"].null_count() == found["height_low"].null_count() == len(found)


def test_a_row_without_an_error_does_not_cost_the_history():
    rows = [
        row | {f"{n}_se": None for n in finding_rows.HEADLINES} if row["step"] == 0 else row
        for row in finding_rows.training("dome")
    ]
    assert set(compute_phases(finding_rows.frame(rows))["verdict"]) == {"expand-compress"}


def test_labels_that_cannot_be_believed_are_left_out():
    """Add a label with the first weights at a step where they would make a valley, and a superseded label."""
    sound = finding_rows.training("rising")
    wrong = [row | {"step": 700, "revision": "step700"} for row in sound if row["step"] == 0]
    gone = [row | {"step": 800, "revision": "step800", "superseded": True, "weights_digest": "gone"} for row in wrong]
    found = compute_phases(finding_rows.frame([*sound, *wrong, *gone]))
    assert set(found["verdict"]) == {"expand"}
    assert set(classify_by_estimator(finding_rows.frame([*sound, *wrong, *gone]))["rows"]) == {
        len(finding_rows.STEPS) - 1
    }


def test_stages_whose_steps_count_anew_are_histories_of_their_own():
    first, second = (
        finding_rows.training("rising", layers=1, stage="stage1"),
        finding_rows.training("falling", layers=1, stage="stage2"),
    )
    second = [row | {"weights_digest": f"s{row['step']}", "revision": f"s2-{row['step']}"} for row in second]
    found = compute_phases(finding_rows.frame([*first, *second])).filter(layer=1)
    assert dict(found.select("stage", "verdict").iter_rows()) == {"stage1": "expand", "stage2": "compress"}


def test_noise_only_histories_and_power():
    """400 models of 3 layers without a change of dimension, and 100 with a peak of ten standard errors.

    At most 5 % of layers and of models are anything but flat, plus three binomial standard errors (1.9 % of 1200
    layers, 3.3 % of 400 models). At least 95 % of the peaks are found.
    """
    models, layers = 400, 3
    frame = histories(models, layers, np.zeros(len(finding_rows.STEPS)))
    found = compute_phases(frame)
    for part in (found.filter(pl.col("layer").is_not_null()), found.filter(pl.col("layer").is_null())):
        kind = "models" if part["layer"].null_count() else "layers"
        rate = float((part["verdict"] != "flat").mean())
        print(f"not flat of {len(part)} noise-only {kind}: {rate:.4f}")
        assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(part))
    each = classify_by_estimator(frame).group_by("estimator").agg(rate=(pl.col("verdict") != "flat").mean())
    print(f"by estimator alone: {dict(each.sort('estimator').iter_rows())}")
    wave = 10 * 0.02 * np.sin(np.linspace(0, np.pi, len(finding_rows.STEPS)))
    power = compute_phases(histories(100, layers, wave)).filter(pl.col("layer").is_not_null())
    rate = float((power["verdict"] == "expand-compress").mean())
    print(f"power at a peak of 10 standard errors (22 %) above both ends: {rate:.3f}")
    assert rate >= 0.95


def histories(models, layers, log_curve, seed=0):
    """Return histories of dimension exp(log_curve) * 20 with 2 % noise, the same in all estimators."""
    random, n = np.random.default_rng(seed), len(finding_rows.STEPS)
    shape = (models, layers, n)
    value = 20 * np.exp(log_curve + 0.02 * random.standard_normal(shape)).ravel()
    se = value * 0.02 * finding_rows.stated_errors(random, models * layers * n) / finding_rows.SE
    index = np.indices(shape).reshape(3, -1)
    other_columns = finding_rows.frame([finding_rows.row()]).drop(
        "model", "layer", "step", "weights_digest", *finding_rows.HEADLINES
    )
    measured = {f"{name}{end}": values for name in finding_rows.HEADLINES for end, values in (("", value), ("_se", se))}
    histories_frame = pl.DataFrame(
        {
            "model": [f"lab/m{i}" for i in index[0]],
            "layer": (index[1] + 1).astype(np.int16),
            "step": np.array(finding_rows.STEPS)[index[2]],
            "weights_digest": [f"w{i}" for i in index[2]],
            **measured,
        }
    )
    rest = [name for name in other_columns.columns if name not in histories_frame.columns]
    return histories_frame.join(other_columns.select(rest), how="cross")


def test_agreement_is_complete_where_estimators_are_copies():
    found = compute_agreement(histories(3, 2, np.zeros(len(finding_rows.STEPS))))
    assert len(found) == 3 * 6, "all pairs of the four estimators"
    assert set(found["verdict"]) == {"agree"}
    assert found["same_verdict"].to_list() == found["same_peak"].to_list() == [1.0] * 18


def test_agreement_of_estimators_with_different_verdicts():
    one, other = finding_rows.frame(finding_rows.training("dome")), finding_rows.frame(finding_rows.training("rising"))
    mixed = one.with_columns(other["id_mle", "id_mle_se"])
    row = compute_agreement(mixed).filter(estimator="id_twonn", other="id_mle").row(0, named=True)
    assert (row["verdict"], row["same_verdict"], row["rows"]) == ("differ", 0.0, 2)


def both(text, random, **changes):
    rows = finding_rows.training(text), finding_rows.training(random, seed=1, corpus="random-uniform", **changes)
    domes = finding_rows.profile(text), finding_rows.profile(random, seed=1, corpus="random-uniform", **changes)
    found = (
        compute_null_survival(finding_rows.frame([*rows[0], *rows[1]])),
        compute_null_survival(finding_rows.frame([*domes[0], *domes[1]])),
    )
    return {
        "phases": set(found[0].filter(conclusion="phases")["verdict"]),
        "peak_step": set(found[0].filter(conclusion="peak_step")["verdict"]),
        "dome": set(found[1].filter(conclusion="dome")["verdict"]),
    }


def test_conclusions_that_survive_on_random_tokens_and_such_that_do_not():
    assert both("dome", "dome") == {"phases": {"survives"}, "peak_step": {"survives"}, "dome": {"survives"}}
    assert both("dome", "noise") == {"phases": {"text_only"}, "peak_step": {"text_only"}, "dome": {"text_only"}}
    assert both("rising", "dome") == {"phases": {"random_only"}, "peak_step": set(), "dome": {"random_only"}}
    assert both("noise", "noise") == {"phases": {"neither"}, "peak_step": set(), "dome": {"neither"}}
    late = both("dome", "late")
    assert (late["phases"], late["peak_step"]) == ({"survives"}, {"text_only"})
    assert both("dome", "dome", groups=1)["phases"] == {"unknown"}


def test_only_checkpoints_measured_on_both_are_compared():
    text = finding_rows.training("dome")
    random = [row for row in finding_rows.training("noise", corpus="random-unigram") if row["step"] <= 64]
    found = (
        compute_null_survival(finding_rows.frame([*text, *random]))
        .filter(conclusion="phases", layer=1)
        .row(0, named=True)
    )
    assert (found["null"], found["on_text"], found["rows"]) == ("random-unigram", "expand", 2 * 8)
    other = [row | {"weights_digest": "other"} for row in random]
    assert compute_null_survival(finding_rows.frame([*text, *other])).is_empty()
    assert compute_null_survival(finding_rows.frame(text)).is_empty()
