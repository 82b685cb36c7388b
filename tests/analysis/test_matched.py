"""Finding `matched`: domes and middle thirds of encoders and decoders of similar size."""

import numpy as np

from pipeline.analysis.matched import match_encoders_to_decoders
from tests.support import finding_rows


def profile(level, height=0.0, sinkless=None, **changes):
    """Blocks of a half wave over a level, exact to a quarter of SE; `sinkless`: level and height without sinks."""
    rows = finding_rows.profile("noise", **changes)
    for row in rows:
        wave = np.sin(np.pi * (row["depth"] - 1 / 12) * 12 / 11)
        row["anisotropy"] = level + height * wave
        base, rise = sinkless or (level, height)
        row["anisotropy_no_sink"] = base + rise * wave
    rows = finding_rows.add_groups(rows, "anisotropy", "anisotropy_no_sink", se=finding_rows.SE / 4)
    return [row | {"contexts_digest": changes.get("model", "lab/small")} for row in rows]


def match(encoder, decoder, **changes):
    rows = profile(*encoder, model="lab/bert", kind="encoder") + profile(*decoder, model="lab/gpt", **changes)
    return match_encoders_to_decoders(finding_rows.frame(rows)).row(0, named=True)


def test_the_published_claim():
    found = match((0.2,), (0.2, 0.5), n_params=1_900_000)
    assert (found["verdict"], found["claim"]) == ("decoder_domed_more", "supports")
    assert (found["decoder_dome"], found["encoder_dome"], found["more_anisotropic"]) == ("yes", "no", "decoder")
    assert found["difference_low"] < 0.495 < found["difference_high"]
    assert (found["decoder"], found["rows"]) == ("lab/gpt", 2 * finding_rows.LAYERS)


def test_without_a_dome_there_is_no_verdict_about_domes():
    """An encoder at 0.62 and a decoder at 0.15, both flat, used to be `decoder_domed_more`."""
    found = match((0.62, -0.3), (0.15,))
    assert (found["verdict"], found["claim"]) == ("no_dome", "contradicts")
    assert found["more_anisotropic"] == "encoder"
    assert found["middle_difference_high"] < 0
    text = found["because"]
    assert "lab/gpt has no dome" in text
    assert "lab/bert has no dome" in text
    assert "lab/bert is more anisotropic there" in text
    assert "is contradicted" in text


def test_the_encoder_can_have_the_dome():
    found = match((0.2, 0.4), (0.2,))
    assert (found["verdict"], found["claim"]) == ("encoder_domed_more", "contradicts")


def test_two_domes_of_equal_height():
    found = match((0.2, 0.4), (0.2, 0.4))
    assert (found["verdict"], found["claim"], found["more_anisotropic"]) == ("both_domed", "contradicts", "undecided")


def test_a_dome_of_sinks_alone():
    found = match((0.1,), (0.2, 0.7, (0.1, 0.0)))
    assert (found["verdict"], found["claim"]) == ("decoder_domed_more", "supports")
    assert (found["verdict_no_sink"], found["claim_no_sink"]) == ("no_dome", "contradicts")
    assert "Without sink tokens: lab/gpt has no dome" in found["because"]


def test_large_errors_leave_the_claim_undecided():
    rows = finding_rows.profile("noise", model="lab/bert", kind="encoder") + finding_rows.profile("noise", seed=1)
    found = match_encoders_to_decoders(finding_rows.frame(rows)).row(0, named=True)
    assert (found["verdict"], found["claim"]) == ("undecided", "undecided")


def test_every_decoder_within_a_factor_two_is_compared():
    rows = profile(0.2, model="lab/bert", kind="encoder")
    for name, size in (("a", 900_000), ("b", 1_900_000), ("c", 2_100_000), ("d", None)):
        rows += profile(0.2, 0.5, model=f"lab/{name}", n_params=size)
    found = match_encoders_to_decoders(finding_rows.frame(rows))
    assert found["decoder"].to_list() == ["lab/a", "lab/b"]


def test_models_of_other_sizes_texts_or_recipes_are_not_matched():
    for changes in ({"n_params": 2_100_000}, {"n_params": None}, {"corpus": "other"}, {"recipe": "standard@1"}):
        found = match((0.2,), (0.2, 0.5), **changes)
        assert (found["verdict"], found["claim"], found["decoder"]) == ("no_match", "undecided", None)
        assert found["difference"] is None


def test_models_without_errors_get_no_verdict():
    rows = finding_rows.profile("noise", groups=1, model="lab/bert", kind="encoder")
    rows += finding_rows.profile("dome", groups=1, model="lab/gpt")
    found = match_encoders_to_decoders(finding_rows.frame(rows)).row(0, named=True)
    assert (found["verdict"], found["claim"]) == ("no_errors", "undecided")


def test_a_match_without_an_interior_has_no_difference():
    rows = profile(0.2, model="lab/bert", kind="encoder")[:2] + profile(0.2, 0.5, model="lab/gpt")
    found = match_encoders_to_decoders(finding_rows.frame(rows)).row(0, named=True)
    assert (found["verdict"], found["height_encoder"], found["difference"]) == ("no_errors", None, None)
    assert "the middle third is unknown in one of the two" in found["because"]


def test_models_that_read_the_same_contexts_are_paired():
    """The shared error of both is 0.01, the own error a tenth of it."""
    rows = profile(0.5, model="lab/bert", kind="encoder") + profile(0.49, model="lab/gpt")
    apart = match_encoders_to_decoders(finding_rows.frame(rows)).row(0, named=True)
    same = [row | {"contexts_digest": "same"} for row in rows]
    paired = match_encoders_to_decoders(finding_rows.frame(same)).row(0, named=True)
    assert (apart["more_anisotropic"], paired["more_anisotropic"]) == ("undecided", "encoder")
    assert paired["middle_difference"] == apart["middle_difference"]
