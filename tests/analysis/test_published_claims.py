"""Published claims on lakes in which each holds, fails, or cannot be decided, and on lakes without any effect."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline import render
from pipeline.analysis import FINDINGS, settling, summarize_finding
from pipeline.analysis.claim_registry import Limit, load_claims
from pipeline.analysis.claim_tests import correct_holm, invert_interval
from pipeline.analysis.published_claims import compute_claims, count_groups, judge_claims
from pipeline.lake import Lake
from pipeline.similarity.settings import Similarity
from tests.support import claim_records, claim_rows, null_lakes, recorded_clouds
from tests.support.claim_rows import RANDOM, flat, history, over_depth, over_training

CLAIMS = load_claims()
BLURRED = 0.4
"""Error with which nothing can be decided."""
DIMENSIONS = claim_rows.DIMENSIONS


def dimension(curve: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(DIMENSIONS, curve)


def rank(curve: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(("effective_rank_sigma", "effective_rank_sigma_no_sink"), curve)


def dome(height: float) -> dict[str, np.ndarray]:
    return dict.fromkeys(("anisotropy", "anisotropy_no_sink"), over_depth(height))


def massive(**counts: Any) -> list[list[dict[str, Any]]]:
    return [history(**({"n_layer_sink_tokens": 100, "n_contexts": 100} | counts))]


def pair(on_text: dict[str, np.ndarray], on_random: dict[str, np.ndarray], error: float = 0.002) -> list[Any]:
    return [history(on_text, error), history(on_random, error, seed=1, corpus=RANDOM, contexts_digest="random")]


def pairs_of_models(late: float, error: float = 0.002) -> list[list[dict[str, Any]]]:
    """Two decoders whose profiles are 0.4 apart early and `late` apart at the end."""
    curve = np.interp(np.arange(len(claim_rows.STEPS)), [1, 5], [0.4, late])
    other = flat(0.3) + np.repeat(curve[:, None], claim_rows.BLOCKS + 2, axis=1)
    truths = ({"anisotropy": flat(0.3)}, {"anisotropy": other})
    return [history(truth, error, seed=i, model=f"lab/m{i}") for i, truth in enumerate(truths)]


def models_with_onsets(sign: int, error: float = 0.002, n: int = 7) -> list[list[dict[str, Any]]]:
    """Decoders whose dimension starts to rise in block 1 to n, with a loss that rises or falls with the onset."""
    found = []
    x = np.arange(claim_rows.BLOCKS + 2)
    for i in range(n):
        onset = 1 + (i % (claim_rows.BLOCKS - 2))
        curve = 20 + 20 * np.clip(x - onset, 0, 1) + 0.5 * np.clip(onset - x, 0, None) - 25 * (x >= claim_rows.BLOCKS)
        truth = dimension(np.repeat(curve[None], len(claim_rows.STEPS), axis=0)) | {
            "loss": flat(3 + sign * 0.1 * onset)
        }
        found.append(history(truth, error, seed=i, model=f"lab/m{i}"))
    return found


def explosion(lag: int, seed: int = 0, spike: float = 3.0) -> list[list[dict[str, Any]]]:
    """One block over 80 checkpoints; the loss spikes once and follows dimension by `lag` checkpoints, or not if 0."""
    random = np.random.default_rng(seed)
    moves = random.standard_normal(80)
    other = np.roll(moves, lag) if lag else random.standard_normal(80)
    log_id, log_loss = np.cumsum(0.02 * moves), np.cumsum(0.02 * other)
    losses = 3 * np.exp(log_loss) + spike * (np.arange(80) == 60)
    return [
        [
            claim_rows.finding_rows.row(
                step=100 * i, corpus=claim_rows.TEXT, id_mle=float(20 * np.exp(a)), loss=float(loss)
            )
            for i, (a, loss) in enumerate(zip(log_id, losses, strict=True))
        ]
    ]


PHASES = rank(over_training(30, 10, 60, 20))
rises, falls, rise_fall = over_training(0.1, 0.5), over_training(0.5, 0.1), over_training(20, 40, 25)
EXAMPLES: dict[str, tuple[Any, Any, Any]] = {
    "dome-in-decoders": ([history(dome(0.3))], [history(dome(0))], [history(dome(0.05), 0.05)]),
    "no-dome-in-encoders": tuple(
        [history(dome(height), error, kind="encoder")] for height, error in ((0, 0.002), (0.3, 0.002), (0.05, 0.05))
    ),
    "anisotropy-rises": (
        [history({"anisotropy": rises})],
        [history({"anisotropy": falls})],
        [history({"anisotropy": flat(0.3)}, BLURRED)],
    ),
    "one-profile": (pairs_of_models(0.02), pairs_of_models(0.4), pairs_of_models(0.1, BLURRED)),
    "expand-then-compress": (
        [history(dimension(rise_fall))],
        [history(dimension(over_training(20, 40)))],
        [history(dimension(over_training(20, 23, 20)), BLURRED)],
    ),
    "dome-on-random-tokens": (
        pair(dome(0.3), dome(0.3)),
        pair(dome(0.3), dome(0)),
        pair(dome(0.3), dome(0.15), 0.08),
    ),
    "phases-on-random-tokens": (
        pair(dimension(rise_fall), dimension(rise_fall)),
        pair(dimension(rise_fall), dimension(flat(20))),
        pair(dimension(rise_fall), dimension(rise_fall), BLURRED),
    ),
    "dimension-before-explosions": (explosion(1), None, explosion(0)),
    "linear-neighbours": (
        [history({"linearity": flat(0.97)})],
        [history({"linearity": flat(0.8)})],
        [history({"linearity": flat(0.9)}, 0.05)],
    ),
    "less-linear-without-residual": (
        [history({"linearity": flat(0.97)}, linearity_residual=0.5)],
        [history({"linearity": flat(0.97)}, linearity_residual=0.97)],
        [history({"linearity": flat(0.97)}, 0.1, linearity_residual=0.9)],
    ),
    "few-massive-activations": (massive(), massive(abs_max=20.0), massive(n_contexts=4, n_layer_sink_tokens=4)),
    "massive-at-first-token": (
        massive(n_layer_sink_tokens=101),
        massive(n_layer_sink_tokens=100 + 60 * 127),
        massive(n_layer_sink_tokens=112),
    ),
    "valley-at-large-sinks": (
        [history(rank(30 - over_depth(20, 0)))],
        [history(rank(over_depth(20, 10)))],
        [history(rank(over_depth(-1, 30)), BLURRED)],
    ),
    "warm-up-collapse": (
        [history(rank(over_training(30, 10, 60, 20)))],
        [history(rank(over_training(10, 60)))],
        [history(rank(over_training(30, 28, 30)), BLURRED)],
    ),
    "rank-expands-then-compresses": (
        [history(rank(over_training(30, 10, 60, 20)))],
        [history(rank(over_training(10, 60)))],
        [history(rank(over_training(30, 32, 30)), BLURRED)],
    ),
    "alpha-mirrors-the-rank": (
        [history(PHASES | {"alpha": over_training(1, 1.5, 0.5, 1.2)})],
        [history(PHASES | {"alpha": over_training(0.5, 1.5)})],
        [history(PHASES | {"alpha": over_training(1, 1.04, 0.96, 1.03)}, 0.02)],
    ),
    "dimension-peak-over-depth": (
        [history(dimension(over_depth(20, 20)))],
        [history(dimension(over_depth(-5, 20)))],
        [history(dimension(over_depth(5, 20)), BLURRED)],
    ),
    "peak-lower-on-random-text": (
        pair(dimension(over_depth(40, 20)), dimension(over_depth(5, 20))),
        pair(dimension(over_depth(5, 20)), dimension(over_depth(40, 20))),
        pair(dimension(over_depth(5, 20)), dimension(over_depth(5, 20)), BLURRED),
    ),
    "earlier-onset-lower-loss": (models_with_onsets(1), models_with_onsets(-1), models_with_onsets(1, n=4)),
    "isotropic-final-state": tuple(
        [history({"cosine_mean": flat(cosine)}, error, model="lab/Pythia-1b", n_params=10**9)]
        for cosine, error in ((0.02, 0.002), (0.5, 0.002), (0.1, 0.05))
    ),
}
"""Lakes in which each claim holds, fails (None: the test cannot contradict it), and cannot be decided."""
SIMILARITY = {name for name, claim in CLAIMS.items() if claim.needs.startswith("similarity")}


def judge(name: str, histories: Any) -> pl.DataFrame:
    frame, finding = claim_rows.frame(*histories), CLAIMS[name].finding
    return judge_claims({finding: FINDINGS[finding].answer(frame)}, count_groups(frame)).filter(claim=name)


@pytest.mark.parametrize("name", sorted(set(CLAIMS) - SIMILARITY))
def test_the_right_word_where_a_claim_holds_fails_and_cannot_be_decided(name):
    for word, histories in zip(("supports", "contradicts", "undecided"), EXAMPLES[name], strict=True):
        if histories is None:
            continue
        found = judge(name, histories)
        assert found["answer"].to_list() == [word], (word, found.to_dicts())
        decided = found["p_holm"].fill_null(1.0).item() < 0.05
        assert decided == (word != "undecided")
        assert found["because"].str.len_chars().min() > 10


INSIDE_THE_BOUND: dict[str, tuple[Any, Any]] = {
    "expand-then-compress": (dimension(over_training(20, 20.5, 20)), dimension(over_training(20, 21, 21, 20))),
    "rank-expands-then-compresses": (rank(over_training(30, 30.6, 30)), rank(over_training(30, 31.5, 31.5, 30))),
    "warm-up-collapse": (rank(over_training(30, 29.4, 30)), rank(over_training(30, 28.6, 28.6, 30))),
    "alpha-mirrors-the-rank": (
        PHASES | {"alpha": over_training(1, 1.02, 1.0, 1.02)},
        PHASES | {"alpha": over_training(1, 1.06, 1.0, 1.06)},
    ),
    "dimension-peak-over-depth": (dimension(over_depth(0.5, 20)), dimension(over_depth(1, 20))),
}
"""Effects that are surely smaller than the bound, and effects at the bound, by claim."""


@pytest.mark.parametrize("name", INSIDE_THE_BOUND)
def test_a_significant_effect_inside_the_bound_contradicts_and_one_at_the_bound_is_undecided(name):
    """Both used to support the claim, because an effect above 0 did."""
    small, at_bound = INSIDE_THE_BOUND[name]
    assert judge(name, [history(small, 0.0003)])["answer"].to_list() == ["contradicts"]
    assert judge(name, [history(at_bound, 0.002)])["answer"].to_list() == ["undecided"]


@pytest.mark.parametrize("name", [claim.name for claim in CLAIMS.values() if claim.supports])
def test_no_effect_can_support_and_contradict_a_claim(name):
    claim = CLAIMS[name]
    for limit in claim.contradicts:
        assert Limit(limit.column, ">" if limit.sign == "<" else "<", limit.bound) in claim.supports


@pytest.mark.parametrize(
    ("on_random", "word"), [(0.3, "supports"), (0.2, "supports"), (0.16, "undecided"), (0.1, "contradicts")]
)
def test_a_dome_on_random_tokens_is_refuted_only_by_less_than_half_of_it(on_random, word):
    """A dome of 0.16 against 0.3, more than half, used to contradict the claim because the two differ."""
    found = judge("dome-on-random-tokens", pair(dome(0.3), dome(on_random), 0.004)).row(0, named=True)
    assert found["answer"] == word
    assert found["effect"] == pytest.approx(on_random - 0.15, abs=0.03)


@pytest.mark.parametrize("on_random", [dome(0), dome(0.3)], ids=["none", "dome"])
def test_nothing_is_tested_on_random_tokens_if_the_text_has_no_effect(on_random):
    """No dome on text and one on random tokens used to contradict that the dome is also there on random tokens."""
    found = judge("dome-on-random-tokens", pair(dome(0), on_random)).row(0, named=True)
    assert (found["answer"], found["p"]) == ("undecided", None)
    assert "the text shows no dome" in found["because"]
    peaks = judge("phases-on-random-tokens", pair(dimension(flat(20)), dimension(rise_fall))).row(0, named=True)
    assert (peaks["answer"], peaks["p"]) == ("undecided", None)


def test_a_peak_that_is_lower_on_random_tokens_is_lower_even_if_more_than_half_is_left():
    histories = pair(dimension(over_depth(20, 20)), dimension(over_depth(14, 20)))
    assert judge("peak-lower-on-random-text", histories)["answer"].to_list() == ["supports"]
    absent = judge("peak-lower-on-random-text", pair(dimension(flat(20)), dimension(flat(20)))).row(0, named=True)
    assert (absent["answer"], absent["p"]) == ("undecided", None)
    assert "within error" not in absent["because"]


def test_a_lead_needs_an_explosion_and_its_p_can_pass_the_correction():
    """A history without any spike used to support the claim, and no p was under 2 / checkpoints."""
    calm = judge("dimension-before-explosions", explosion(1, spike=0.0)).row(0, named=True)
    assert (calm["answer"], calm["p"], calm["because"]) == (
        "undecided",
        None,
        "the loss never explodes in this history",
    )
    spiked = judge("dimension-before-explosions", explosion(1)).row(0, named=True)
    assert spiked["p"] <= 0.001


AFTER_THE_PHASE = {
    "anisotropy-rises": {"anisotropy": flat(0.5)},
    "expand-then-compress": dimension(over_training(40, 20)),
    "warm-up-collapse": rank(over_training(10, 60, 20)),
    "rank-expands-then-compresses": rank(over_training(60, 20)),
}
"""Histories without the early phase of a claim."""


@pytest.mark.parametrize("name", AFTER_THE_PHASE)
def test_a_history_that_starts_after_a_phase_says_nothing_about_it(name):
    """A rank that falls from 60 to 20 used to contradict that it had expanded before the first checkpoint."""
    whole = history(AFTER_THE_PHASE[name])
    assert judge(name, [whole])["answer"].to_list() == ["contradicts"]
    late = judge(name, [[row for row in whole if row["step"] >= 256]]).row(0, named=True)
    assert (late["answer"], late["p"]) == ("undecided", None)
    assert "the first checkpoint is later than" in late["because"]


@pytest.mark.parametrize(
    ("rank_course", "alpha", "word"),
    [
        ((10, 60, 30), (1, 1.5, 0.5, 1.2), "contradicts"),
        ((10, 60, 30), (1.5, 0.5, 1.2), "supports"),
        ((10, 30, 60), (1.5, 0.5, 1.2), None),
        ((10, 60, 30), (0.5, 1.5, 1.2), "contradicts"),
    ],
)
def test_alpha_mirrors_the_rank_only_where_their_curves_are_opposed(rank_course, alpha, word):
    """Any valley of alpha used to support the claim, whatever the rank does."""
    truth = rank(over_training(*rank_course)) | {"alpha": over_training(*alpha)}
    found = judge("alpha-mirrors-the-rank", [history(truth)]).row(0, named=True)
    assert (found["answer"], found["p"] is None) == (word or "undecided", word is None)
    assert word or "no significant peak" in found["because"]


def test_every_claim_about_training_needs_the_start_of_the_history():
    over_time = {name for name, claim in CLAIMS.items() if claim.finding in ("trends", "phases", "settling")}
    without = {name for name in over_time if not str(CLAIMS[name].premise).startswith("start_share <")}
    assert without == {"alpha-mirrors-the-rank"}, "it is judged where the rank peaks"


def test_the_registry_has_fourteen_claims_of_nine_papers_on_findings_and_columns_that_exist():
    assert len(CLAIMS) >= 14
    assert len({claim.paper for claim in CLAIMS.values()}) >= 9
    assert CLAIMS["lower-layers-settle-first"].short_reference == "Raghu 2017"
    assert CLAIMS["overlap-profile"].rows == {"measure": "overlap_4"}
    empty = {name: spec.answer(claim_rows.frame()) for name, spec in FINDINGS.items()}
    for claim in CLAIMS.values():
        if claim.finding not in FINDINGS:
            assert claim.needs.startswith("similarity"), claim.name
            continue
        used = {claim.column, claim.p, *claim.rows, *(limit.column for limit in (*claim.supports, *claim.contradicts))}
        used |= {claim.effect_column}
        used |= {limit.bound for limit in (*claim.supports, *claim.contradicts) if isinstance(limit.bound, str)}
        used |= {f"{limit.column}{end}" for limit in claim.supports for end in ("_low", "_high")}
        assert used - {None} <= set(empty[claim.finding].columns), claim.name
        assert claim.p or claim.supports, claim.name


@pytest.mark.parametrize("name", sorted(SIMILARITY))
def test_the_right_word_from_similarity_records(tmp_path, name):
    """Lakes with records in which each claim holds, fails, and cannot be decided."""
    for word, rows in claim_records.EXAMPLES[name](tmp_path).items():
        frame, finding = recorded_clouds.frame(rows), CLAIMS[name].finding
        found = judge_claims({finding: FINDINGS[finding].answer(frame)}, {"quick@1": frame["groups"][0]})
        found = found.filter(claim=name)
        assert found["answer"].to_list() == [word.split(":")[0]], (word, found.to_dicts())
        decided = found["p_holm"].fill_null(1.0).item() < 0.05
        assert decided == (word != "undecided")
        assert found["because"].str.len_chars().min() > 10


def test_lower_blocks_that_are_settled_from_the_start_do_not_settle_last(tmp_path):
    """Lower blocks 0.985 alike to their end from step 0 used to count as the last to settle, however they creep."""
    steps, quick = (0, 1, 3, 7, 15, 31, 63), [0, 0.5, 0.9, 0.99, 0.999, 1, 1]
    rng, creep = np.random.default_rng(0), [0, 0.1, 0.25, 0.45, 0.7, 0.97, 1]
    blocks = [claim_records.nearing(rng, *way) for way in [(0.12, creep)] * 2 + [(3.0, quick)] * 2]
    frame = recorded_clouds.frame(claim_records.settling(tmp_path, blocks, steps))
    found = FINDINGS["settling"].answer(frame).filter(measure="cka")
    still = found.filter(pl.col("layer") <= 2)
    assert still["start"].min() > 0.95  # type: ignore[operator]
    assert still["settled_at"].to_list() == still["settled_at_high"].to_list() == [0, 0]
    answer = judge_claims({"settling": found}, {"quick@1": 5}).filter(claim="lower-layers-settle-first")
    assert answer["answer_alone"].to_list() == ["supports"]


def test_the_level_of_an_interval_is_stated(tmp_path, capsys):
    """The 98 % interval of the slope used to be called one of 95 %."""
    rows = claim_records.settling(tmp_path, claim_records.blocks_of(claim_records.COURSES[:3]))
    found = {"settling": FINDINGS["settling"].answer(recorded_clouds.frame(rows))}
    answers = judge_claims(found, {"quick@1": 5})
    assert answers.filter(claim="lower-layers-settle-first")["level"].to_list() == [settling.SLOPE_LEVEL]
    assert {claim.level for claim in CLAIMS.values() if claim.finding != "settling"} == {0.95}
    render.print_claims(CLAIMS, answers.to_dicts(), "")
    render.print_briefs({"settling": ""}, {"settling": summarize_finding("settling", found["settling"])})
    assert capsys.readouterr().out.count("effect (98 % interval): doublings of training") == 2


@pytest.mark.parametrize("name", sorted(SIMILARITY))
def test_a_claim_about_similarity_says_what_the_lake_lacks(name):
    frame = claim_rows.frame(history())
    findings = {each: FINDINGS[each].answer(frame) for each in (CLAIMS[name].finding, "trends")}
    found = judge_claims(findings, count_groups(frame)).filter(claim=name)
    assert set(found["because"]) == {f"the claim needs {CLAIMS[name].needs}"}
    assert set(found["answer"]) == {"undecided"}


def test_a_lake_whose_records_do_not_suffice_is_told_what_they_lack(tmp_path):
    """Two tokenizers, lists of 2 neighbours, checkpoints without a step: the advice was to make records."""
    rng, short = np.random.default_rng(0), Similarity(tokens=40, rank=8, neighbours=2)
    rows = []
    for model in "ab":
        clouds = [rng.standard_normal((40, 8)) for _ in range(4)]
        rows += recorded_clouds.add_cell(Lake(tmp_path), model, None, clouds, tokens_digest=model, size=short)
    frame = recorded_clouds.frame(rows)
    names = {"similarity", *(CLAIMS[name].finding for name in SIMILARITY)}
    answers = judge_claims({name: FINDINGS[name].answer(frame) for name in names}, count_groups(frame))
    for name, lack in {
        "lower-layers-settle-first": "of four checkpoints with steps",
        "overlap-profile": "of four blocks, with 4 or more neighbours per token",
        "peak-layers-predict-each-other": "with one tokenizer on one text, with 4 or more neighbours per token",
    }.items():
        (because,) = answers.filter(claim=name)["because"].unique()
        assert because.endswith(lack)
        assert "add" not in because


def test_a_history_that_a_finding_says_nothing_about_is_told_what_it_needs():
    newest = [row for row in history() if row["step"] == claim_rows.STEPS[-1]]
    found = compute_claims(claim_rows.frame(newest))
    row = found.filter(claim="expand-then-compress").row(0, named=True)
    assert (row["answer"], row["p"]) == ("undecided", None)
    assert "three" in row["because"]
    null = found.filter(claim="dome-on-random-tokens").row(0, named=True)
    assert "random-uniform" in null["because"]


def test_a_claim_does_not_concern_other_kinds_sizes_or_random_tokens():
    encoder = history(dome(0.3), kind="encoder")
    small = history({"cosine_mean": flat(0.02)}, model="lab/pythia-14m", n_params=14_000_000)
    found = compute_claims(claim_rows.frame(encoder, small, history(corpus=RANDOM, contexts_digest="r")))
    assert found.filter(claim="dome-in-decoders")["model"].to_list() == ["lab/pythia-14m"]
    assert found.filter(claim="isotropic-final-state").is_empty()
    assert not found["corpus"].drop_nulls().str.starts_with("random").any()


def test_the_p_of_an_interval_that_touches_its_bound_is_five_percent():
    row = {"height": 0.3, "height_low": 0.1, "height_high": 0.6}
    assert invert_interval(row, Limit("height", ">", 0.1), 5) == pytest.approx(0.05)
    assert invert_interval(row, Limit("height", "<", 0.6), 5) == pytest.approx(0.05)
    assert invert_interval(row, Limit("height", ">", 0.4), 5) == 1
    assert invert_interval(row, Limit("height", "!=", 0.6), 5) == pytest.approx(0.05)
    assert invert_interval(row | {"height_low": None}, Limit("height", ">", 0.1), 5) is None
    assert invert_interval(row, Limit("height", ">", 0.1), 1) is None


def test_an_interval_without_width_tests_nothing():
    """Its p used to be 0, so that groups that agree by chance decided a claim."""
    row = {"height": 0.3, "height_low": 0.3, "height_high": 0.3}
    assert invert_interval(row, Limit("height", ">", 0.1), 5) is None
    assert invert_interval(row, Limit("height", "<", 0.1), 5) is None
    found = {"linearity": FINDINGS["linearity"].answer(claim_rows.frame(history({"linearity": flat(0.97)})))}
    exact = pl.col("linearity")
    found["linearity"] = found["linearity"].with_columns(linearity_low=exact, linearity_high=exact)
    answer = judge_claims(found, {"quick@1": 5}).filter(claim="linear-neighbours").row(0, named=True)
    assert (answer["answer"], answer["p"]) == ("undecided", None)
    assert answer["because"] == "the interval of linearity has no width, so its error is unknown"


def test_the_p_of_a_t_interval_is_that_of_the_t_test():
    from scipy import stats

    sample = np.random.default_rng(0).normal(0.3, 0.2, 6)
    low, high = stats.t.interval(0.95, 5, sample.mean(), stats.sem(sample))
    row = {"mean": sample.mean(), "mean_low": low, "mean_high": high}
    assert invert_interval(row, Limit("mean", "!=", 0.0), 6) == pytest.approx(stats.ttest_1samp(sample, 0.0).pvalue)


def test_holm_is_that_of_the_textbook():
    assert correct_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_holm([]) == []


def test_an_answer_that_the_correction_takes_back_says_so():
    weak = history({"linearity": flat(0.903)}, 0.002, seed=2)
    others = [history(seed=i, model=f"lab/at_bound{i}", linearity_residual=0.85) for i in (0, 1)]
    answers = compute_claims(claim_rows.frame(weak, *others)).filter(claim="linear-neighbours", model="lab/small")
    found = answers.row(0, named=True)
    assert (found["answer_alone"], found["answer"]) == ("supports", "undecided"), found
    assert "but not after the correction" in found["because"]
    assert found["p"] < 0.05 <= found["p_holm"]


TRUE_WITHOUT_EFFECT = {"no-dome-in-encoders", "few-massive-activations", "massive-at-first-token"}
"""Claims that are true of a history without any effect; `supports` is right there."""


def wrong_supports(folder: Path, lakes: int, error: float, groups: int) -> tuple[float, set[str]]:
    """Share of lakes with any wrong `supports`, and the claims that were tested in any of them."""
    found = null_lakes.find_in_null_lakes(folder, lakes, error, groups)
    wrong, tested = 0, set[str]()
    for recipe in (f"quick@{i}" for i in range(lakes)):
        parts = {name: part.filter(recipe=recipe) for name, part in found.items()}
        answers = judge_claims(parts, {recipe: groups}).filter(~pl.col("claim").is_in(TRUE_WITHOUT_EFFECT))
        tested |= set(answers.drop_nulls("p")["claim"])
        wrong += not answers.filter(answer="supports").is_empty()
    return wrong / lakes, tested


@cache
def wrong_limit(lakes: int) -> float:
    """5 % plus three binomial standard errors."""
    return 0.05 + 3 * float(np.sqrt(0.05 * 0.95 / lakes))


def test_lakes_without_effects_support_nothing_and_put_every_claim_at_risk(tmp_path):
    rate, tested = wrong_supports(tmp_path, lakes=8, error=0.01, groups=5)
    print(f"wrong supports in {rate:.1%} of 8 lakes")
    assert rate <= wrong_limit(8)
    assert tested == set(CLAIMS) - TRUE_WITHOUT_EFFECT


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("groups", "error"), [(2, 0.01), (4, 0.01), (5, 0.01), (5, 0.1), (8, 0.01)])
def test_at_most_five_percent_of_lakes_without_effects_have_any_wrong_supports(tmp_path, groups, error):
    lakes = 100
    rate, _ = wrong_supports(tmp_path, lakes, error, groups)
    print(f"RATE {groups} groups, errors {error}: any wrong supports in {rate:.1%} of {lakes} lakes")
    assert rate <= wrong_limit(lakes)


def test_the_command_and_the_report_say_the_answers_and_the_correction(tmp_path, shapelake):
    rows = history({**dome(0.3), "linearity": flat(0.97)}, linearity_residual=0.5)
    reader = claim_rows.finding_rows.commit(tmp_path / "lake", rows)
    code, printed, _ = shapelake("claims", "--lake", reader.uri)
    assert code == 0
    assert "dome-in-decoders (Razzhigaev 2024): In decoders, anisotropy over depth has a maximum" in printed
    assert "Answers hold after Holm's correction over" in printed
    assert "claims without a matching history in this lake: no-dome-in-encoders, isotropic-final-state" in printed
    code, printed, _ = shapelake("claims", "--lake", reader.uri, "--json")
    found = json.loads(printed)
    assert set(found["claims"]) == set(CLAIMS)
    assert found["tests"] == sum(answer["p"] is not None for answer in found["answers"])
    assert {"supports", "contradicts"} <= set(found["claims"]["dome-in-decoders"])
    answers = {answer["claim"]: answer["answer"] for answer in found["answers"]}
    assert answers["dome-in-decoders"] == answers["linear-neighbours"] == "supports"
    code, *_ = shapelake("report", "--lake", reader.uri, "-o", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert '<h2 id="published">Published claims</h2>' in page
    assert "In decoders, anisotropy over depth has a maximum in the middle layers. (Razzhigaev 2024)" in page
