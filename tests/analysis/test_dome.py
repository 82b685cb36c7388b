"""Finding `dome` on rows with known verdicts."""

import numpy as np
import pytest

from pipeline.analysis.dome import SMALLEST_DOME, compute_all_domes, compute_newest_domes
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


def paired_profile(shape, height=None, **changes):
    """Blocks whose errors are shared; `height` replaces the profile by a half wave of this height."""
    rows = finding_rows.profile(shape, **changes)
    for row in rows if height is not None else []:
        row["anisotropy"] = row["anisotropy_no_sink"] = 0.3 + height * np.sin(np.pi * (row["depth"] - 1 / 12) * 12 / 11)
    return finding_rows.add_groups(rows, "anisotropy", "anisotropy_no_sink", se=finding_rows.SE / 4)


@pytest.mark.parametrize(
    ("kind", "height", "has_dome", "claim"),
    [
        ("decoder", 0.2, "yes", "supports"),
        ("decoder", 0.0, "no", "contradicts"),
        ("decoder", 0.5 * SMALLEST_DOME, "no", "contradicts"),
        ("encoder", 0.2, "yes", "contradicts"),
        ("encoder", 0.0, "no", "supports"),
    ],
)
def test_the_claim_about_decoders_and_encoders(kind, height, has_dome, claim):
    found = compute_newest_domes(finding_rows.frame(paired_profile("noise", height, kind=kind))).row(0, named=True)
    assert (found["has_dome"], found["claim"], found["paired"]) == (has_dome, claim, True)
    assert found["because"].count("claim") == 1


def test_a_dome_within_error_is_undecided():
    rows = finding_rows.profile("noise")
    found = compute_newest_domes(finding_rows.frame(rows)).row(0, named=True)
    assert (found["verdict"], found["has_dome"], found["claim"]) == ("flat", "undecided", "undecided")


def test_a_small_interior_maximum_is_a_bump():
    found = compute_newest_domes(finding_rows.frame(paired_profile("noise", 0.03))).row(0, named=True)
    assert (found["verdict"], found["has_dome"]) == ("bump", "no")


def test_a_block_without_an_error_is_named():
    rows = finding_rows.profile("dome")
    rows[5]["anisotropy_se"] = None
    found = compute_newest_domes(finding_rows.frame(rows)).row(0, named=True)
    assert (found["verdict"], found["left_out"], found["rows"]) == ("dome", [0.5], 11)
    assert "depth 0.50" in found["because"]


@pytest.mark.parametrize("end", [0, -1])
def test_a_profile_without_its_first_or_last_block_has_no_dome(end):
    """The end that a dome has to exceed used to be replaced by its neighbour, without a word."""
    rows = finding_rows.profile("dome")
    rows[end]["anisotropy_se"] = None
    found = compute_newest_domes(finding_rows.frame(rows)).row(0, named=True)
    assert (found["verdict"], found["has_dome"], found["claim"]) == ("no_ends", "undecided", "undecided")


def test_rows_that_read_other_contexts_are_not_paired():
    rows = paired_profile("dome")
    rows[3]["contexts_digest"] = "others"
    found = compute_newest_domes(finding_rows.frame(rows)).row(0, named=True)
    assert not found["paired"]
    assert "unpaired" in found["because"]
