"""Findings `phases`, `estimators`, `agreement` and `depth` on histories and profiles with known verdicts."""

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.depth import compute_depth
from pipeline.analysis.phases import classify_by_estimator, compute_agreement, compute_phases
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
    assert (found["agreeing"] >= 2).all()
    assert found["scales"].to_list() == [3] * 3, "ranks 1-2 and two scales of GRIDE"
    assert found["because"].str.starts_with("Layer 1 ").to_list() == [True, False, False]


@pytest.mark.parametrize(("shape", "peak", "height"), [("dome", 6.5, 1.32), ("late", 11.05, 1.045)])
def test_the_step_of_the_peak_and_its_interval(shape, peak, height):
    found = compute_phases(finding_rows.frame(finding_rows.training(shape)))
    nearest = {finding_rows.STEPS[int(np.floor(peak))], finding_rows.STEPS[int(np.ceil(peak))]}
    for row in found.to_dicts():
        assert row["peak_step_low"] <= row["peak_step"] <= row["peak_step_high"]
        assert any(row["peak_step_low"] <= step <= row["peak_step_high"] for step in nearest)
        assert row["peak_value"] == pytest.approx(14, rel=0.1)
        assert row["height_low"] < height < row["height_high"]


def test_an_untrained_start_above_the_peak_does_not_hide_it():
    rows = [
        row | dict.fromkeys(finding_rows.HEADLINES, 30.0) if row["step"] == 0 else row
        for row in finding_rows.training("late", 1)
    ]
    twonn = classify_by_estimator(finding_rows.frame(rows)).filter(estimator="id_twonn", layer=1).row(0, named=True)
    assert twonn["verdict"] == "collapse-expand-compress"
    assert twonn["peak_step"] > 0
    assert twonn["peak_step_low"] > 0


def test_estimators_of_one_scale_have_one_vote():
    """mu peaked with both scales of GRIDE falling used to be `expand-compress`, by four of six."""
    one, other = (finding_rows.frame(finding_rows.training(shape, layers=1)) for shape in ("dome", "falling"))
    found = compute_phases(one.with_columns(other["id_gride"])).filter(layer=1).row(0, named=True)
    assert found["verdict"] == "compress"
    assert found["claim"] != "supports"
    assert (found["agreeing"], found["scales"], found["reference"]) == (2, 3, "id_gride_4")


def test_scales_without_a_majority_are_disputed():
    frames = [finding_rows.frame(finding_rows.training(shape, layers=1)) for shape in ("dome", "falling", "rising")]
    gride = pl.concat_list(frames[1]["id_gride"].list.head(3), frames[2]["id_gride"].list.tail(2))
    mixed = frames[0].with_columns(frames[0].select(gride.alias("id_gride")))
    found = compute_phases(mixed).filter(layer=1).row(0, named=True)
    assert (found["verdict"], found["claim"], found["scales"]) == ("disputed", "undecided", 3)
    two = mixed.with_columns(pl.col("id_gride").list.head(3))
    assert compute_phases(two).filter(layer=1)["verdict"].to_list() == ["disputed"], "one against one"


def test_the_published_code_votes_where_nothing_else_has_errors():
    rows = finding_rows.training("dome", layers=1, groups=1)
    for row in rows:
        row["id_authors"] = row["id_twonn"]
    rows = finding_rows.add_groups(rows, "id_authors")
    found = compute_phases(finding_rows.frame(rows)).filter(layer=1).row(0, named=True)
    assert (found["verdict"], found["agreeing"], found["scales"]) == ("expand-compress", 1, 1)
    assert (found["reference"], found["paired"]) == ("id_authors", True)
    voting = compute_phases(finding_rows.frame([row | {"groups": 4} for row in rows])).filter(layer=1)
    assert voting["scales"].to_list() == [3], "it has no vote beside other scales"


SEQUENCES = {
    "valley with a bump": ([20, 16, 12, 9, 8, 8.5, 8, 9, 11, 14, 17, 19], "compress-expand", "contradicts"),
    "collapse first": ([30, 20, 10, 8, 9, 12, 15, 18, 15, 12, 10, 9], "collapse-expand-compress", "supports"),
    "peak first": ([8, 12, 18, 14, 10, 8, 7, 8, 10, 13, 16, 18], "expand-compress-expand", "supports"),
    "fall": ([20, 18, 16, 14, 12, 11, 10, 9, 8.5, 8, 7.5, 7], "compress", "contradicts"),
    "rise": ([7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], "expand", "contradicts"),
    "waves": ([8, 16, 8, 16, 8, 16, 8, 16, 8, 16, 8, 16], "oscillating", "undecided"),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_word_follows_from_the_sequence_of_moves(name):
    curve, verdict, claim = SEQUENCES[name]
    rows = [
        finding_rows.row(step=step, **dict.fromkeys(finding_rows.HEADLINES, value))
        for step, value in enumerate(map(float, curve))
    ]
    rows = finding_rows.add_groups(rows, *finding_rows.HEADLINES, se=0.01)
    found = compute_phases(finding_rows.frame(rows)).filter(layer=1).row(0, named=True)
    assert (found["verdict"], found["claim"], found["paired"]) == (verdict, claim, True)
    for move in found["moves"]:
        assert move["size_low"] < move["size"] < move["size_high"]
        assert (move["size"] > 0) == (move["direction"] == "rise")
        assert move["size"] == pytest.approx(curve[int(move["last"])] / curve[int(move["first"])] - 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_checkpoint_without_all_blocks_is_left_out_of_the_mean_and_named(seed):
    """Two of four blocks without a value at one checkpoint used to make a peak of the mean, 37 % high."""
    rows = finding_rows.training("noise", layers=4, seed=seed)
    names = [name for name in rows[0] if name.startswith("id_") and name not in ("id_gride_k", "id_ks")]
    for row in rows:
        scale = 10.0 if row["layer"] > 2 else 1.0
        row |= {name: row[name] * scale for name in finding_rows.HEADLINES}
        row |= {f"{name}_se": row[f"{name}_se"] * scale for name in finding_rows.HEADLINES}
        if row["step"] == 64 and row["layer"] <= 2:
            row |= dict.fromkeys(names)
    found = compute_phases(finding_rows.frame(rows)).filter(pl.col("layer").is_null()).row(0, named=True)
    assert (found["verdict"], found["left_out"], found["rows"]) == ("flat", [64], len(finding_rows.STEPS) - 1)
    assert "step 64." in found["because"]


def test_without_errors_the_highest_step_is_given_and_no_verdict():
    for frame in (
        finding_rows.frame(finding_rows.training("dome", groups=1)),
        finding_rows.frame(finding_rows.training("dome", groups=None)),
    ):
        found = compute_phases(frame)
        assert set(found["verdict"]) == {"no_errors"}
        assert found["peak_step"].is_between(16, 128).all()
        assert found["peak_step_low"].null_count() == found["height_low"].null_count() == len(found)


def test_a_row_without_an_error_does_not_cost_the_history_and_is_named():
    rows = [
        row | {f"{n}_se": None for n in finding_rows.HEADLINES} | {"id_gride_se": None} if row["step"] == 0 else row
        for row in finding_rows.training("dome")
    ]
    found = compute_phases(finding_rows.frame(rows))
    assert set(found["verdict"]) == {"expand-compress"}
    assert found["left_out"].to_list() == [[0]] * 3
    assert found["because"].str.contains("step 0.", literal=True).all()


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


def test_agreement_is_that_of_scales():
    found = compute_agreement(finding_rows.frame(finding_rows.training("dome")))
    pairs = found.select("estimator", "other").rows()
    assert pairs == [("id_mle", "id_gride_4"), ("id_mle", "id_gride_16"), ("id_gride_4", "id_gride_16")]
    assert set(found["verdict"]) == {"agree"}


def test_agreement_of_scales_with_different_verdicts():
    one, other = finding_rows.frame(finding_rows.training("dome")), finding_rows.frame(finding_rows.training("rising"))
    mixed = one.with_columns(other["id_mle", "id_mle_se"])
    row = compute_agreement(mixed).filter(estimator="id_mle", other="id_gride_4").row(0, named=True)
    assert (row["verdict"], row["same_verdict"], row["rows"]) == ("differ", 0.0, 2)


def over_depth(shape, curve=None, layers=12):
    depth = np.arange(1, layers + 1) / layers
    x = (depth - depth[0]) / (1 - depth[0])
    values = 20 * finding_rows.SHAPES[shape](x) if curve is None else np.array(curve, float)
    rows = [
        finding_rows.row(layer=i + 1, depth=float(depth[i]), **dict.fromkeys(finding_rows.HEADLINES, float(values[i])))
        for i in range(layers)
    ]
    return finding_rows.frame(finding_rows.add_groups(rows, *finding_rows.HEADLINES))


@pytest.mark.parametrize(
    ("shape", "verdict", "claim"),
    [
        ("dome", "peak", "supports"),
        ("late", "peak", "supports"),
        ("rising", "rising", "contradicts"),
        ("falling", "falling", "contradicts"),
        ("valley", "valley", "contradicts"),
        ("noise", "flat", "contradicts"),
    ],
)
def test_dimension_over_depth(shape, verdict, claim):
    found = compute_depth(over_depth(shape)).row(0, named=True)
    assert (found["verdict"], found["claim"], found["paired"]) == (verdict, claim, True)


def test_the_peak_over_depth_and_its_onset():
    curve = [10, 10, 10, 10, 12, 16, 20, 18, 15, 12, 10, 9]
    found = compute_depth(over_depth("noise", curve)).row(0, named=True)
    assert found["verdict"] == "peak"
    assert found["depth"] == pytest.approx(7 / 12)
    assert found["depth_low"] <= found["depth"] <= found["depth_high"]
    assert found["onset"] <= 4 / 12
    assert found["peak_value"] == pytest.approx(20)
    assert found["height_low"] < 1.0 < found["height_high"]


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("points", [5, 12, 28])
def test_noise_has_no_moves_over_training_or_depth(points, groups):
    """At most 5 % of 200 paired all-noise curves have any move, plus three binomial standard errors (4.6 %)."""
    random, curves = np.random.default_rng([points, groups]), 200
    noise = 0.05 * random.standard_normal((curves, points, groups)) + 0.1 * random.standard_normal((curves, 1, groups))
    rows = [
        finding_rows.row(
            model=f"lab/m{i}",
            step=step,
            id_mle=20.0 * float(np.exp(noise[i, step].mean())),
            id_mle_groups=(20.0 * np.exp(noise[i, step])).tolist(),
        )
        for i in range(curves)
        for step in range(points)
    ]
    found = compute_phases(finding_rows.frame(rows)).filter(layer=1)
    rate = float((found["moves"].list.len() > 0).mean())
    print(f"any move: {rate:.3f} of {curves} paired noise-only histories of {points} steps, {groups} groups")
    assert found["paired"].all()
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / curves)
