"""Findings `convergence` and `one_shape`: one run on full and thinned grids, and models that meet or part."""

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.convergence import compute_convergence, find_anchors
from pipeline.analysis.one_shape import compute_one_shape
from tests.support import finding_rows

PYTHIA = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 144_000, 1000))
THINNED = (*(2**i for i in range(17)), 143_000)
BLOCKS = 6
DEPTH = np.arange(1, BLOCKS + 1) / BLOCKS
WAVE = np.sin(np.pi * DEPTH)


def history(profiles, steps, se=0.002, groups=4, seed=0, **changes):
    """Rows of a history; `profiles` is [steps, blocks], and the errors are those of groups, independent by row."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((*profiles.shape, groups)) * se * np.sqrt(groups)
    values = profiles + noise.mean(2)
    moments = values[..., None] - (noise - noise.mean(2, keepdims=True)) / (groups - 1)
    return [
        finding_rows.row(
            step=int(step),
            layer=block + 1,
            depth=float(DEPTH[block]),
            anisotropy=float(values[i, block]),
            anisotropy_no_sink=float(values[i, block]),
            anisotropy_groups=moments[i, block].tolist(),
            anisotropy_no_sink_groups=moments[i, block].tolist(),
            anisotropy_se=se,
            anisotropy_no_sink_se=se,
            **changes,
        )
        for i, step in enumerate(steps)
        for block in range(BLOCKS)
    ]


SATURATING = lambda t: 1 - np.exp(-t / 8000)  # noqa: E731
LOGARITHMIC = lambda t: np.log1p(t) / np.log1p(143_000)  # noqa: E731
SLOWING = lambda t: t / (t + 20_000)  # noqa: E731
CONSTANT = lambda t: 0 * t  # noqa: E731
LATE = lambda t: np.maximum(np.log2(np.maximum(t, 1) / 71_500), 0)  # noqa: E731


@pytest.mark.parametrize(
    ("course", "verdict", "claim"),
    [
        (SATURATING, "settled", "supports"),
        (LOGARITHMIC, "moving", "contradicts"),
        (SLOWING, "converging", "undecided"),
        (CONSTANT, "still", "undecided"),
        (LATE, "moving", "contradicts"),
    ],
    ids=["saturating", "logarithmic", "slowing", "constant", "late"],
)
@pytest.mark.parametrize("steps", [PYTHIA, THINNED], ids=["pythia", "thinned"])
def test_the_verdict_does_not_depend_on_the_grid(course, verdict, claim, steps):
    """A saturating history used to be `settled` on 154 steps and `moving` on the thinned grid."""
    profiles = 0.2 + 0.5 * course(np.array(steps, float))[:, None] * WAVE
    found = compute_convergence(finding_rows.frame(history(profiles, steps, groups=8))).row(0, named=True)
    assert (found["verdict"], found["claim"]) == (verdict, claim)
    assert found["late_low"] <= found["late"] <= found["late_high"]
    assert found["paired"]


def test_the_speed_is_per_e_fold_of_training():
    steps = np.array([0, 1000, 2000, 4000, 8000, 16_000])
    rise = 0.3 * np.log(np.maximum(steps, 1000) / 1000)
    found = compute_convergence(finding_rows.frame(history(0.1 + rise[:, None] + 0 * WAVE, steps))).row(0, named=True)
    assert found["late"] == pytest.approx(0.3, abs=0.01)
    assert found["late_low"] < 0.3 < found["late_high"]
    assert found["clock"] == "steps"


def test_tokens_are_the_clock_where_all_rows_state_them():
    rows = [row | {"tokens_seen": row["step"] * 10} for row in history(np.full((6, BLOCKS), 0.5), 2 ** np.arange(6))]
    assert compute_convergence(finding_rows.frame(rows))["clock"].to_list() == ["tokens"]


def test_anchors_are_doublings_before_the_end():
    assert [THINNED[i] for i in find_anchors(np.array(THINNED, float))][:3] == [143_000, 65_536, 32_768]
    assert find_anchors(np.array([0.0, 1000, 100_000])) == [2], "half of the training was not measured"


def test_a_checkpoint_with_a_missing_block_is_named():
    steps = 2 ** np.arange(8)
    rows = history(np.full((8, BLOCKS), 0.5), steps)
    rows[3]["anisotropy"] = None
    found = compute_convergence(finding_rows.frame(rows)).row(0, named=True)
    assert (found["left_out"], found["checkpoints"]) == ([1], 7)
    assert "step 1." in found["because"]


def test_few_checkpoints_and_no_errors():
    rows = history(np.full((2, BLOCKS), 0.5), [1, 2])
    assert compute_convergence(finding_rows.frame(rows))["verdict"].to_list() == ["too_few"]
    blank = {"anisotropy_groups": None, "groups": 1}
    rows = [row | blank for row in history(np.full((5, BLOCKS), 0.5), 2 ** np.arange(5))]
    assert compute_convergence(finding_rows.frame(rows))["verdict"].to_list() == ["no_errors"]


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("points", [5, 12, 18])
def test_noise_alone_is_still(points, groups):
    """At most 5 % of 200 histories are anything but still, plus three binomial standard errors (4.6 %)."""
    steps, models = 2 ** np.arange(points), 200
    rows = [
        row
        for i in range(models)
        for row in history(np.full((points, BLOCKS), 0.5), steps, groups=groups, seed=i, model=f"lab/m{i}")
    ]
    rate = float((compute_convergence(finding_rows.frame(rows))["verdict"] != "still").mean())
    print(f"not still: {rate:.3f} of {models} noise-only histories of {points} steps, {groups} groups")
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / models)


EARLY_AND_LATE = (1430, 143_000)


def models(early, late, se=0.002, groups=4):
    rows = []
    for i, (first, last) in enumerate(zip(early, late, strict=True)):
        shapes = 0.3 + np.array([first, last])[:, None] * WAVE
        rows += history(shapes, EARLY_AND_LATE, seed=i, model=f"lab/m{i}", se=se, groups=groups)
    return finding_rows.frame(rows)


@pytest.mark.parametrize(
    ("early", "late", "verdict", "claim"),
    [
        ((0.0, 0.4, -0.2), (0.5, 0.5, 0.5), "converge", "supports"),
        ((0.0, 0.0), (0.4, -0.25), "diverge", "contradicts"),
        ((0.4, -0.25), (0.4, -0.25), "unchanged", "contradicts"),
        ((0.5, -0.3), (0.3, -0.1), "converge", "undecided"),
        ((0.2, 0.2), (0.2, 0.2), "unchanged", "undecided"),
    ],
    ids=["one shape", "opposite ends", "apart throughout", "nearer", "alike throughout"],
)
def test_models_that_meet_or_part(early, late, verdict, claim):
    """Two decoders that end in opposite profiles used to be `settled`, both."""
    found = compute_one_shape(models(early, late)).filter(metric="anisotropy").row(0, named=True)
    assert (found["verdict"], found["claim"]) == (verdict, claim)
    assert found["change_low"] <= found["change"] <= found["change_high"]


def test_models_without_an_early_checkpoint_are_named():
    frame = models((0.0, 0.4, 0.3), (0.5, 0.5, 0.5))
    frame = frame.filter(~((pl.col("model") == "lab/m1") & (pl.col("step") == 1430)))
    found = compute_one_shape(frame).row(0, named=True)
    assert (found["models"], found["left_out"]) == (["lab/m0", "lab/m2"], ["lab/m1"])
    assert "Left out: lab/m1." in found["because"]


def test_one_model_is_too_few_and_encoders_do_not_count():
    one = models((0.0,), (0.5,))
    other = models((0.0,), (0.5,)).with_columns(kind=pl.lit("encoder"), model=pl.lit("lab/bert"))
    assert set(compute_one_shape(pl.concat([one, other]))["verdict"]) == {"too_few"}


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_equal_models_neither_meet_nor_part(groups):
    verdicts = []
    for seed in range(100):
        shapes = 0.3 + np.full((2, BLOCKS), 0.3)
        rows = [history(shapes, EARLY_AND_LATE, seed=[seed, i], groups=groups, model=f"lab/m{i}") for i in range(3)]
        verdicts.append(compute_one_shape(finding_rows.frame(rows[0] + rows[1] + rows[2]))["verdict"][0])
    rate = float(np.mean([verdict != "unchanged" for verdict in verdicts]))
    print(f"not unchanged: {rate:.3f} of 100 triples of equal models, {groups} groups")
    assert rate <= 0.05
