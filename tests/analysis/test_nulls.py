"""Finding `nulls`: effects on text and on random tokens, decided on their difference."""

import numpy as np
import pytest

from pipeline.analysis.random_baselines import compute_null_survival
from tests.support import finding_rows

RANDOM = "random-uniform"


def both(text, random, **changes):
    rows = finding_rows.training(text), finding_rows.training(random, seed=1, corpus=RANDOM, **changes)
    domes = finding_rows.profile(text), finding_rows.profile(random, seed=1, corpus=RANDOM, **changes)
    found = (
        compute_null_survival(finding_rows.frame([*rows[0], *rows[1]])),
        compute_null_survival(finding_rows.frame([*domes[0], *domes[1]])),
    )
    return {
        "phases": set(found[0].filter(conclusion="phases")["verdict"]),
        "peak_step": set(found[0].filter(conclusion="peak_step")["verdict"]),
        "dome": set(found[1].filter(conclusion="dome")["verdict"]),
    }


def test_effects_that_survive_on_random_tokens_and_such_that_do_not():
    alike = both("dome", "dome")
    assert (alike["phases"], alike["dome"]) == ({"survives"}, {"survives"})
    gone = both("dome", "noise")
    assert (gone["phases"], gone["dome"], gone["peak_step"]) == ({"differs"}, {"differs"}, set())
    assert both("rising", "dome")["dome"] == {"differs"}
    assert both("noise", "noise") == {"phases": {"absent"}, "peak_step": set(), "dome": {"absent"}}
    assert both("dome", "late")["peak_step"] == {"differs"}
    assert both("dome", "dome", groups=1)["phases"] == {"unknown"}


def profile(height, se, seed=0, **changes):
    """Blocks of a half wave, with independent errors of this size."""
    random = np.random.default_rng(seed)
    rows = finding_rows.profile("noise", **changes)
    for row in rows:
        wave = np.sin(np.pi * (row["depth"] - 1 / 12) * 12 / 11)
        row |= {"anisotropy": 0.3 + height * wave, "anisotropy_se": float(finding_rows.stated_errors(random, 1)[0])}
        row["anisotropy_se"] *= se / finding_rows.SE
    return rows


@pytest.mark.parametrize(
    ("on_text", "on_null", "verdict"),
    [(0.3, 0.29, "survives"), (0.3, 0.0, "differs"), (0.3, 0.05, "differs"), (0.085, 0.065, "undecided")],
)
def test_the_verdict_is_that_of_the_difference(on_text, on_null, verdict):
    """Significance on text and none on random tokens, 0.02 apart, used to be `text_only`."""
    rows = profile(on_text, 0.009) + profile(on_null, 0.009, seed=1, corpus=RANDOM)
    (found,) = compute_null_survival(finding_rows.frame(rows)).filter(conclusion="dome").to_dicts()
    assert found["verdict"] == verdict
    assert found["difference_low"] < on_text - on_null < found["difference_high"]


def test_only_checkpoints_measured_on_both_are_compared():
    text = finding_rows.training("dome")
    random = [row for row in finding_rows.training("noise", corpus="random-unigram") if row["step"] <= 64]
    compared = compute_null_survival(finding_rows.frame([*text, *random]))
    found = compared.filter(conclusion="phases", layer=1).row(0, named=True)
    assert (found["null"], found["on_text"], found["rows"]) == ("random-unigram", "expand", 2 * 8)
    other = [row | {"weights_digest": "other"} for row in random]
    assert compute_null_survival(finding_rows.frame([*text, *other])).is_empty()
    assert compute_null_survival(finding_rows.frame(text)).is_empty()


@pytest.mark.parametrize("height", [0.0, 0.3])
def test_equal_domes_seldom_differ(height):
    """At most 5 % of 200 pairs of equal profiles `differ`."""
    verdicts = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        rows = profile(height, 0.01, seed=seed) + profile(height, 0.01, seed=seed + 1000, corpus=RANDOM)
        rows = [row | {"anisotropy": row["anisotropy"] + 0.01 * random.standard_normal()} for row in rows]
        verdicts += [row | {"model": f"lab/m{seed}"} for row in rows]
    found = compute_null_survival(finding_rows.frame(verdicts)).filter(conclusion="dome")
    rate = float((found["verdict"] == "differs").mean())
    print(f"differs: {rate:.3f} of 200 pairs of equal profiles of height {height}")
    assert found.height == 200
    assert rate <= 0.05
