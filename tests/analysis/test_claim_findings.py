"""Findings trends, linearity, massive, valley, isotropy and onset on rows with known truth; their measured rates."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.analysis.compression_valley import compute_valley
from pipeline.analysis.isotropy import compute_isotropy
from pipeline.analysis.linearity import compute_linearity
from pipeline.analysis.massive import compute_massive
from pipeline.analysis.onset import compute_onset, measure_rank_correlation
from pipeline.analysis.trends import compute_trends
from tests.support import claim_rows, finding_rows
from tests.support.claim_rows import flat, history, over_depth, over_training

MODELS = 60


def limit(rate: float, n: int) -> float:
    """A rate plus three binomial standard errors."""
    return rate + 3 * float(np.sqrt(rate * (1 - rate) / n))


@pytest.fixture(scope="module")
def noise():
    """Histories without effects; linearity, cosine and the drop of RankMe lie at the bounds of the verdicts."""
    x = np.isin(np.arange(claim_rows.BLOCKS + 2), (3, 4, 5, 6))
    rank = np.repeat(np.where(x, 27.0, 30.0)[None], len(claim_rows.STEPS), axis=0)
    truth = dict.fromkeys(("effective_rank_sigma", "effective_rank_sigma_no_sink"), rank)
    return claim_rows.frame(*(history(truth, 0.01, seed=i, model=f"lab/m{i:03d}") for i in range(MODELS)))


def test_trends_of_noise_are_flat(noise):
    found = compute_trends(noise)
    rates = dict(found.group_by("metric").agg((pl.col("verdict") != "flat").mean()).iter_rows())
    print(f"not flat of {MODELS} noise-only histories: {rates}")
    assert max(rates.values()) <= limit(0.05, MODELS)
    excluded = (found["change_low"] > 0) | (found["change_high"] < 0)
    print(f"change significant in {excluded.mean():.1%} of {found.height}")
    assert excluded.mean() <= limit(0.05, MODELS)


@pytest.mark.parametrize(
    ("compute", "decided"), [(compute_linearity, "linear"), (compute_isotropy, "isotropic"), (compute_valley, "valley")]
)
def test_values_at_the_bound_are_decided_in_five_percent(noise, compute, decided):
    """A recipe of five groups; half of the 5 % on either side."""
    found = compute(noise)
    rate = float((found["verdict"] != "undecided").mean())
    one = float((found["verdict"] == decided).mean())
    print(f"{compute.__name__}: decided {rate:.1%}, {decided} {one:.1%} of {found.height} at the bound")
    assert rate <= limit(0.05, MODELS)


def test_the_phases_of_li_are_named():
    rank = over_training(30, 10, 60, 20)
    alpha = over_training(1.0, 1.5, 0.5, 1.2)
    truth = {"effective_rank_sigma": rank, "alpha": alpha, "anisotropy": over_training(0.1, 0.6)}
    found = compute_trends(claim_rows.frame(history(truth))).rows_by_key("metric", named=True, unique=True)
    assert found["effective_rank_sigma"]["verdict"] == "fall-rise-fall"
    assert found["alpha"]["verdict"] == "rise-fall-rise"
    assert found["anisotropy"]["verdict"] == "rising"
    assert found["anisotropy"]["change_low"] < 0.5 < found["anisotropy"]["change_high"]
    assert found["effective_rank_sigma"]["change"] == pytest.approx(20 / 30 - 1, abs=0.02)
    assert {row["claim"] for name, row in found.items() if "no_sink" not in name} == {"supports"}
    assert "step 0 to 16000" in found["anisotropy"]["because"]


def test_few_checkpoints_and_missing_errors_have_no_trend():
    two = [row for row in history() if row["step"] in claim_rows.STEPS[:2]]
    assert set(compute_trends(claim_rows.frame(two))["verdict"]) == {"too_few"}
    blind = claim_rows.frame(history()).with_columns(
        pl.lit(None).cast(pl.Int64).alias("groups"), pl.lit(None, pl.List(pl.Float64)).alias("anisotropy_groups")
    )
    found = compute_trends(blind).filter(metric="anisotropy").row(0, named=True)
    assert (found["verdict"], found["claim"], found["change_low"]) == ("no_errors", "undecided", None)


def test_linearity_is_that_of_the_layers_and_the_gap_follows_from_the_shared_residual():
    found = compute_linearity(claim_rows.frame(history({"linearity": flat(0.97)}, linearity_residual=0.6)))
    row = found.row(0, named=True)
    assert (row["verdict"], row["rows"]) == ("linear", claim_rows.BLOCKS)
    assert row["linearity"] == pytest.approx(0.97, abs=0.005)
    assert row["gap"] == pytest.approx(row["linearity"] - 0.6)
    assert row["gap_low"] < row["gap"] < row["gap_high"]


def test_counts_of_massive_tokens_have_exact_errors():
    row = compute_massive(claim_rows.frame(history(n_layer_sink_tokens=110, n_contexts=100))).row(0, named=True)
    assert (row["verdict"], row["others"], row["crowded"]) == ("few", 0.1, 0.02)
    assert row["p"] == pytest.approx(2 * stats.binom.cdf(2, 100, 0.5))
    interval = stats.binomtest(2, 100).proportion_ci(0.95, "exact")
    assert row["crowded_high"] == pytest.approx(interval.high)
    assert row["first_token_claim"] == "undecided"
    many = compute_massive(claim_rows.frame(history(n_layer_sink_tokens=100 * 60, n_contexts=100))).row(0, named=True)
    assert (many["verdict"], many["claim"], many["first_token_claim"]) == ("undecided", "undecided", "contradicts")


def test_a_few_tokens_beside_the_first_do_not_contradict_that_they_sit_there():
    """Sun et al. list the first delimiter too; any other token in over a tenth of the contexts used to contradict."""
    for others, word in ((3, "undecided"), (6, "contradicts")):
        rows = history(n_layer_sink_tokens=100 * (1 + others), n_contexts=100, context_tokens=8)
        row = compute_massive(claim_rows.frame(rows)).row(0, named=True)
        assert (row["others"], row["first_token_claim"]) == (others, word)
        assert (row["first_token_p"] < 0.05) == (word == "contradicts")


def test_rates_of_the_counts_at_their_bounds():
    """Half of the contexts have four other tokens each, the others none: the counts decide in at most 5 %."""
    random, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        others = 4 * random.binomial(100, 0.5)
        rows = [finding_rows.row(n_layer_sink_tokens=100 + int(others), n_contexts=100)]
        wrong += compute_massive(finding_rows.frame(rows))["verdict"].item() != "undecided"
    print(f"decided {wrong / 200:.1%} of 200 at the bound")
    assert wrong / 200 <= limit(0.05, 200)


def test_a_valley_needs_blocks_with_and_without_a_large_sink():
    deep = dict.fromkeys(("effective_rank_sigma", "effective_rank_sigma_no_sink"), 30 - over_depth(20, 0))
    row = compute_valley(claim_rows.frame(history(deep))).row(0, named=True)
    assert (row["verdict"], row["large"], row["others"], row["paired"]) == ("valley", 4, 4, True)
    for norm, word in ((4.0, "no_large_norm"), (400.0, "all_large_norm")):
        assert compute_valley(claim_rows.frame(history(norm_max=norm)))["verdict"].to_list() == [word]


def test_isotropy_reads_the_last_state():
    row = compute_isotropy(claim_rows.frame(history({"cosine_mean": flat(0.02)}))).row(0, named=True)
    assert (row["verdict"], row["state"], row["layer_read"]) == ("isotropic", "final_norm", claim_rows.BLOCKS + 1)


def test_the_rank_correlation_is_scipys_and_its_p_that_of_permutations():
    random = np.random.default_rng(0)
    a, b = random.permutation(6).astype(float), random.permutation(6).astype(float)
    correlation, p = measure_rank_correlation(a, b)
    assert correlation == pytest.approx(stats.spearmanr(a, b).statistic)
    exact = stats.permutation_test(
        (b,), lambda x: stats.spearmanr(a, x).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert p == pytest.approx(exact.pvalue)


def test_unrelated_ranks_are_significant_in_five_percent():
    random = np.random.default_rng(1)
    for n in (6, 12):
        p = [
            measure_rank_correlation(np.arange(n, dtype=float), random.permutation(n).astype(float))[1]
            for _ in range(200)
        ]
        rate = float(np.mean(np.array(p) < 0.05))
        print(f"{n} models: significant {rate:.1%} of 200")
        assert rate <= limit(0.05, 200)


def test_fewer_than_five_models_are_too_few():
    assert compute_onset(claim_rows.frame(history()))["verdict"].to_list() == ["too_few"]
