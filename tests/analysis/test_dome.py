"""Findings `dome`, `matched` and `convergence` on rows with known verdicts."""

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.convergence import compute_convergence, measure_profile_distances
from pipeline.analysis.dome import compute_all_domes, compute_newest_domes, match_encoders_to_decoders
from tests.support import finding_rows

KNOWN = {
    "dome": "dome",
    "late": "dome",
    "valley": "valley",
    "plateau": "rising",
    "rising": "rising",
    "falling": "falling",
    "noise": "flat",
}


@pytest.mark.parametrize("shape", KNOWN)
def test_a_profile_of_a_known_shape(shape):
    (found,) = compute_newest_domes(finding_rows.frame(finding_rows.profile(shape))).to_dicts()
    assert found["verdict"] == found["no_sink_verdict"] == KNOWN[shape]
    assert found["rows"] == finding_rows.LAYERS
    assert found["because"].startswith("Anisotropy ")
    assert found["height_low"] < found["height"] < found["height_high"]


def test_where_and_how_high():
    found = compute_newest_domes(finding_rows.frame(finding_rows.profile("dome"))).row(0, named=True)
    # The profile is a half wave of height 0.4 over depth 1/12..1, with its peak at 0.54.
    assert found["height_low"] < 0.4 < found["height_high"]
    assert found["depth_low"] <= 0.54 <= found["depth_high"]
    late = compute_newest_domes(finding_rows.frame(finding_rows.profile("late"))).row(0, named=True)
    assert late["depth_low"] <= late["depth"] <= late["depth_high"]
    assert late["depth"] > 0.75


def test_a_dome_that_the_sinks_make():
    found = compute_newest_domes(finding_rows.frame(finding_rows.profile("dome", no_sink="noise"))).row(0, named=True)
    assert (found["verdict"], found["no_sink_verdict"]) == ("dome", "flat")


def test_embedding_and_final_norm_are_no_part_of_the_profile():
    rows = finding_rows.profile("rising")
    ends = [
        finding_rows.row(layer=0, state="embedding", anisotropy=0.9),
        finding_rows.row(layer=13, state="final_norm", anisotropy=0.0),
    ]
    assert compute_newest_domes(finding_rows.frame([*rows, *ends])).equals(
        compute_newest_domes(finding_rows.frame(rows))
    )


def test_the_last_believable_step_counts_and_domes_gives_all():
    frame = finding_rows.frame(
        [
            *finding_rows.profile("noise", step=1),
            *finding_rows.profile("dome", step=5),
            *finding_rows.profile("falling", step=9, superseded=True),
            *finding_rows.profile("falling", step=7, weights_digest="same"),
            *finding_rows.profile("falling", step=8, weights_digest="same"),
        ]
    )
    assert compute_newest_domes(frame).select("step", "verdict").rows() == [(5, "dome")]
    assert compute_all_domes(frame).sort("step")["step"].to_list() == [1, 5, 7, 8, 9]


def test_a_model_without_steps_has_a_dome_too():
    rows = finding_rows.profile("dome")
    frame = finding_rows.frame(row | {"step": None, "revision": "main"} for row in rows)
    assert compute_newest_domes(frame)["verdict"].to_list() == ["dome"]


def test_one_group_gives_the_height_and_no_verdict():
    found = compute_newest_domes(finding_rows.frame(finding_rows.profile("dome", groups=1))).row(0, named=True)
    assert found["verdict"] == "no_errors"
    assert found["height"] == pytest.approx(0.4, abs=0.05)
    assert found["height_low"] is found["depth_low"] is None


def test_two_blocks_have_no_interior():
    assert compute_newest_domes(finding_rows.frame(finding_rows.profile("dome")[:2]))["verdict"].to_list() == [
        "too_few"
    ]


def test_noise_only_profiles_have_no_dome():
    """At most 5 % of 400 models are anything but flat, plus three binomial standard errors (3.3 %)."""
    models = 400
    frame = finding_rows.frame(
        row for i in range(models) for row in finding_rows.profile("noise", seed=i, model=f"lab/m{i}")
    )
    found = compute_newest_domes(frame)
    rates = {name: float((found[name] != "flat").mean()) for name in ("verdict", "no_sink_verdict")}
    print(f"not flat of {models} noise-only profiles: {rates}")
    assert max(rates.values()) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / models)


def pair(encoder, decoder, **changes):
    rows = (
        finding_rows.profile(encoder, model="lab/bert", kind="encoder"),
        finding_rows.profile(decoder, model="lab/gpt", seed=1, **changes),
    )
    return match_encoders_to_decoders(finding_rows.frame([*rows[0], *rows[1]])).row(0, named=True)


def test_encoders_against_decoders_of_their_size():
    assert pair("noise", "dome")["verdict"] == "decoder_domed_more"
    assert pair("dome", "noise")["verdict"] == "encoder_domed_more"
    assert pair("dome", "dome")["verdict"] == "alike"
    found = pair("noise", "dome", n_params=1_900_000)
    assert (found["decoder"], found["rows"]) == ("lab/gpt", 2 * finding_rows.LAYERS)
    assert found["difference_low"] < 0.4 < found["difference_high"]
    assert f"(at least 90 % {found['difference_low']:.3f} to" in found["because"]


def test_models_of_other_sizes_texts_or_recipes_are_not_matched():
    for changes in ({"n_params": 2_100_000}, {"n_params": None}, {"corpus": "other"}, {"recipe": "standard@1"}):
        found = pair("noise", "dome", **changes)
        assert (found["verdict"], found["decoder"], found["difference"]) == ("no_match", None, None)
    assert pair("noise", "dome", groups=1)["verdict"] == "no_errors"


def test_a_match_without_an_interior_has_no_difference():
    encoder = finding_rows.profile("noise", model="lab/bert", kind="encoder")[:2]
    found = match_encoders_to_decoders(
        finding_rows.frame([*encoder, *finding_rows.profile("dome", model="lab/gpt", seed=1)])
    ).row(0, named=True)
    assert (found["height"], found["difference"]) == (None, None)
    assert "no interior" in found["because"]


def run(amounts, noise=1.0, seed=0, together=False):
    """Return a history whose profiles are domes of these heights; `together`: all blocks share one error."""
    random, rows = np.random.default_rng(seed), []
    for step, amount in enumerate(amounts):
        common, stated = random.standard_normal(), finding_rows.stated_errors(random, finding_rows.LAYERS)
        for row, se in zip(finding_rows.profile("noise", step=step), stated.tolist(), strict=True):
            error = noise * finding_rows.SE * (common if together else random.standard_normal())
            value = 0.5 + amount * np.sin(np.pi * row["depth"]) + error
            rows.append(row | {"anisotropy": value, "anisotropy_se": stated[0] if together else se})
    return finding_rows.frame(rows)


@pytest.mark.parametrize(
    ("amounts", "verdict"),
    [
        (np.zeros(14), "still"),
        (0.4 * (1 - 0.4 ** np.arange(14)), "settled"),
        (np.cumsum([0] + 7 * [0.12] + 6 * [0.05]), "converging"),
        (0.1 * np.arange(14), "moving"),
        (np.maximum(np.arange(14) - 6, 0) * 0.1, "moving"),
        (np.zeros(4), "too_few"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_convergence(amounts, verdict, together):
    found = compute_convergence(run(amounts, together=together)).row(0, named=True)
    assert (found["verdict"], found["checkpoints"]) == (verdict, len(amounts))
    sizes = [f"{max(found[name] or 0, 0) ** 0.5:.3f}" for name in ("early", "late")]
    assert all(fact in found["because"] for fact in (["4 checkpoints"] if verdict == "too_few" else sizes))


def test_distances_are_root_mean_squares_over_blocks():
    found = measure_profile_distances(run([0.0, 0.1, 0.1], noise=0))
    wave = 0.1 * np.sin(np.pi * np.arange(1, finding_rows.LAYERS + 1) / finding_rows.LAYERS)
    assert found["distance"].to_list() == pytest.approx([np.sqrt((wave**2).mean()), 0])
    assert found["to_last"].to_list() == pytest.approx([np.sqrt((wave**2).mean()), 0], abs=1e-12)
    assert found["noise"][0] == pytest.approx(finding_rows.SE * np.sqrt(2), rel=0.3)


@pytest.mark.parametrize("together", [False, True])
def test_profiles_that_are_noise_are_still(together):
    """At most 5 % of 400 histories are anything but still, plus three binomial standard errors (3.3 %)."""
    one = run(np.zeros(9))
    random, models = np.random.default_rng(0), 400
    frame = pl.concat([one.with_columns(model=pl.lit(f"lab/m{i}")) for i in range(models)])
    shape = (models, 9, finding_rows.LAYERS)
    noise, stated = random.standard_normal(shape), finding_rows.stated_errors(random, np.prod(shape)).reshape(shape)
    if together:
        noise, stated = (np.broadcast_to(each[..., :1], shape) for each in (noise, stated))
    frame = frame.with_columns(
        anisotropy=0.5 + finding_rows.SE * pl.Series(noise.ravel()), anisotropy_se=pl.Series(stated.ravel())
    )
    rate = float((compute_convergence(frame)["verdict"] != "still").mean())
    print(f"not still of {models} noise-only histories, {'shared' if together else 'independent'} errors: {rate:.3f}")
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / models)
