"""Shapes of noisy curves: false-positive rate, power, coverage of intervals, and closed forms."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.analysis import curve_shapes
from pipeline.analysis.frames import t_quantile
from pipeline.analysis.simultaneous_test import (
    ERROR_SPREADS,
    FALSE_POSITIVE_RATE,
    critical_difference,
    estimate_error_spread,
    estimate_paired_errors,
    estimate_unpaired_errors,
    pool_variances,
)

CURVES = 600
MARGIN = 3 * np.sqrt(FALSE_POSITIVE_RATE * (1 - FALSE_POSITIVE_RATE) / CURVES)
"""Three binomial standard errors, 2.7 %: a true rate of 5 % fails once in a thousand runs."""


def drawn(truth, sigma, df=3, shared=0.0, curves=CURVES, seed=0):
    """Draw [curves, points] noisy values and their standard errors from df + 1 groups.

    The share `shared` of the noise variance is common to a curve, as in errors from the same contexts.
    """
    random, n = np.random.default_rng(seed), len(truth)
    noise = np.sqrt(shared) * random.standard_normal((curves, 1))
    noise = noise + np.sqrt(1 - shared) * random.standard_normal((curves, n))
    return truth + sigma * noise, sigma * np.sqrt(random.chisquare(df, (curves, n)) / df)


def classify_curves(values, se, df, ends=False):
    return curve_shapes.classify_curves(values, estimate_unpaired_errors(se, df), ends)


def moving_rate(*curve, **options):
    """Share of curves with any significant move."""
    return float(np.mean([bool(moves) for moves in classify_curves(*curve, **options).moves]))


def peak_rate(*curve, **options):
    return float(classify_curves(*curve, **options).peaked.mean())


def words(moves):
    return "-".join(move.direction for move in moves)


SIZES = [(5, 3), (14, 3), (28, 4), (154, 4)]
SIGMAS = {"equal errors": np.ones, "errors that shrink tenfold": lambda n: np.geomspace(10, 1, n)}


@pytest.mark.parametrize("ends", [False, True], ids=["any", "ends"])
@pytest.mark.parametrize("sigma", SIGMAS.values(), ids=SIGMAS)
@pytest.mark.parametrize(("points", "df"), SIZES)
def test_noise_alone_is_called_flat_in_95_percent_of_curves(points, df, sigma, ends):
    curve = drawn(np.zeros(points), sigma(points), df)
    rate = moving_rate(*curve, df=df, ends=ends)
    print(f"{points} points, df {df}: {rate:.3f} of {CURVES} noise-only curves not flat")
    assert rate <= FALSE_POSITIVE_RATE + MARGIN


JUMPS = {
    "two groups, three points": (np.geomspace(10, 1, 3), 1, FALSE_POSITIVE_RATE + MARGIN),
    "two groups, one large error": (1 + 9.0 * (np.arange(12) == 6), 1, FALSE_POSITIVE_RATE + MARGIN),
    "three groups, three points": (np.geomspace(100, 1, 3), 2, FALSE_POSITIVE_RATE + MARGIN),
    "one error ten times its neighbours'": (1 + 9.0 * (np.arange(28) == 14), 4, FALSE_POSITIVE_RATE + MARGIN),
    **{
        f"each of {n} errors drawn from one to five": (
            np.geomspace(1, 5, n)[np.random.default_rng(0).permutation(n)],
            4,
            FALSE_POSITIVE_RATE + MARGIN,
        )
        for n in (14, 28, 154)
    },
    "every second of 60 errors fivefold": (1 + 4.0 * (np.arange(60) % 2), 3, FALSE_POSITIVE_RATE + MARGIN),
}


@pytest.mark.parametrize(("sigma", "df", "most"), JUMPS.values(), ids=JUMPS)
def test_errors_that_jump_make_no_more_false_claims(sigma, df, most):
    curve = drawn(np.zeros(len(sigma)), sigma, df=df, curves=CURVES)
    not_flat, peaks = moving_rate(*curve, df=df), peak_rate(*curve, df=df)
    print(f"not flat {not_flat:.3f}, peak {peaks:.3f}")
    assert not_flat <= most
    assert peaks <= FALSE_POSITIVE_RATE


@pytest.mark.parametrize(("points", "df"), [(28, 4), (154, 4)])
def test_the_spread_of_errors_is_estimated(points, df):
    """The median estimate is within a factor of 2, for equal errors, errors spread fourfold, and a slow trend."""
    random = np.random.default_rng(1)
    for true in (1.0, 4.0):
        sigma = true ** random.random((CURVES, points))
        found = estimate_error_spread(sigma**2 * random.chisquare(df, (CURVES, points)) / df, df)
        print(f"{points} points, true {true:g}: {dict(zip(*np.unique(found, return_counts=True), strict=True))}")
        assert set(found) <= set(ERROR_SPREADS)
        assert true / 2 <= np.median(found) <= 2 * true
    slow = np.geomspace(10, 1, points) ** 2 * random.chisquare(df, (CURVES, points)) / df
    assert np.median(estimate_error_spread(slow, df)) <= 2, "a slow change is not a spread"


def test_the_critical_difference_grows_with_the_spread():
    bounds = [critical_difference(28, 4, spread=spread) for spread in ERROR_SPREADS]
    assert bounds == sorted(bounds)


def test_two_groups_of_equal_errors_are_judged_right():
    assert moving_rate(*drawn(np.zeros(3), np.ones(3), df=1), df=1) <= FALSE_POSITIVE_RATE + MARGIN


def test_errors_that_points_share_make_fewer_claims_not_more():
    rates = [moving_rate(*drawn(np.zeros(20), np.ones(20), shared=shared), df=3) for shared in (0.0, 0.5, 0.9)]
    assert rates[0] > rates[1] >= rates[2]


NO_PEAK = {
    "rise to a plateau": lambda n: np.minimum(np.arange(n), 3) * 20.0,
    "straight rise": lambda n: 3.0 * np.arange(n),
    "slow rise": lambda n: 0.2 * np.arange(n),
    "valley": lambda n: 10.0 * abs(np.arange(n) - n // 2),
    "fall to a plateau": lambda n: np.maximum(n - 4 - np.arange(n), 0) * 20.0,
}


@pytest.mark.parametrize("truth", NO_PEAK.values(), ids=NO_PEAK)
@pytest.mark.parametrize("points", [6, 20, 60])
def test_a_curve_without_a_peak_is_not_given_one(points, truth):
    rate = peak_rate(*drawn(truth(points), np.ones(points)), df=3)
    assert rate <= FALSE_POSITIVE_RATE + MARGIN


@pytest.mark.parametrize(("points", "least"), [(8, 0.85), (20, 0.9), (60, 0.95)])
def test_power_at_eight_standard_errors(points, least):
    """Power on a half wave whose top is 4 to 10 standard errors of one point above its ends."""
    power = {
        height: peak_rate(*drawn(height * np.sin(np.linspace(0, np.pi, points)), np.ones(points)), df=3)
        for height in (4, 6, 8, 10)
    }
    print(f"{points} points, power by height in standard errors: {power}")
    assert power[8] >= least
    assert power[4] < power[6] < power[8]


@pytest.mark.parametrize("height", [0, 2, 5, 20])
def test_intervals_cover_the_true_height_and_the_true_place(height):
    truth = height * np.sin(np.linspace(0, np.pi, 15)) ** 2 + 0.3 * np.arange(15)
    shape = classify_curves(*drawn(truth, np.ones(15)), df=3)
    inside = max(min(truth[p] - truth[:p].min(), truth[p] - truth[p + 1 :].min()) for p in range(1, 14))
    assert ((shape.height_low <= inside) & (inside <= shape.height_high)).mean() >= 1 - FALSE_POSITIVE_RATE - MARGIN
    place = truth.argmax()
    assert ((shape.peak_first <= place) & (place <= shape.peak_last)).mean() >= 1 - FALSE_POSITIVE_RATE - MARGIN


def test_the_critical_difference_of_known_variances_is_the_studentized_range():
    for points in (3, 10, 20):
        exact = stats.studentized_range.ppf(1 - FALSE_POSITIVE_RATE, points, 1e5) / np.sqrt(2)
        assert exact < critical_difference(points, 100_000) < 1.03 * exact


def test_the_critical_difference_grows_with_points_and_falls_with_groups():
    assert (
        critical_difference(5, 3) < critical_difference(10, 3) < critical_difference(20, 3) < critical_difference(40, 3)
    )
    assert critical_difference(20, 3) > critical_difference(20, 4) > critical_difference(20, 30)
    assert critical_difference(20, 3) == critical_difference(20, 3)


def moves_of(*values, se=0.01):
    curve = np.array([values], float)
    shapes = classify_curves(curve, np.full_like(curve, se), df=3)
    return words(shapes.moves[0]), words(shapes.main[0])


@pytest.mark.parametrize(
    ("values", "moves"),
    [
        ((0, 1, 0), "rise-fall"),
        ((0, 1, 1), "rise"),
        ((1, 0, 0), "fall"),
        ((1, 0, 1), "fall-rise"),
        ((1, 1, 1), ""),
        ((3, 0, 1, 0), "fall-rise-fall"),
        ((0, 2, -1, 1), "rise-fall-rise"),
    ],
)
def test_moves(values, moves):
    assert moves_of(*values) == (moves, moves)


def test_a_small_bump_in_a_valley_is_a_move_and_not_a_main_one():
    """The curve that was called a peak although it is a valley with a bump of 0.5."""
    valley = np.log([20, 16, 12, 9, 8, 8.5, 8, 9, 11, 14, 17, 19])
    assert moves_of(*valley, se=0.003) == ("fall-rise-fall-rise", "fall-rise")


def test_moves_have_their_ends_sizes_and_intervals():
    curve = np.array([[5.0, 3.0, 1.0, 2.0, 4.0, 2.5]])
    (moves,) = classify_curves(curve, np.full_like(curve, 0.01), df=3).moves
    assert [(move.first, move.last, move.size) for move in moves] == [(0, 2, -4.0), (2, 4, 3.0), (4, 5, -1.5)]
    assert all(move.low < move.size < move.high for move in moves)
    assert all(move.low > 0 or move.high < 0 for move in moves)


def test_shift_scale_and_order_of_training_change_nothing_but_the_names():
    values, se = drawn(5 * np.sin(np.linspace(0, 3, 12)), np.ones(12))
    shape, moved = classify_curves(values, se, df=3), classify_curves(7 * values - 3, 7 * se, df=3)
    assert [words(moves) for moves in shape.moves] == [words(moves) for moves in moved.moves]
    np.testing.assert_allclose(moved.height, 7 * shape.height)
    back = classify_curves(values[:, ::-1], se[:, ::-1], df=3)
    assert (shape.peaked == back.peaked).all()
    peaked = shape.peaked
    assert peaked.any()
    assert (back.top[peaked] == 11 - shape.top[peaked]).all()
    assert (back.peak_first[peaked] == 11 - shape.peak_last[peaked]).all()


def test_against_plain_loops():
    values, se = drawn(3 * np.sin(np.linspace(0, 3, 9)), np.ones(9), curves=40)
    shape, variance = classify_curves(values, se, df=3), pool_variances(se**2)
    bounds = [max(2.0, critical_difference(9, 3, spread=spread)) for spread in estimate_error_spread(se**2, 3)]
    assert len(set(bounds)) > 1
    for x, v, bound, low, peaked in zip(values, variance, bounds, shape.height_low, shape.peaked, strict=True):
        gap_low = lambda a, p, x=x, v=v, bound=bound: x[p] - x[a] - bound * np.sqrt(v[a] + v[p])  # noqa: E731
        best = max(
            min(max(gap_low(a, p) for a in range(p)), max(gap_low(b, p) for b in range(p + 1, 9))) for p in range(1, 8)
        )
        assert low == pytest.approx(best)
        assert peaked == (best > 0)


def test_a_row_is_never_surer_than_itself_or_its_neighbours():
    variance = np.array([[1.0, 1.0, 100.0, 1.0, 1.0, 1.0]])
    assert (pool_variances(variance) >= variance).all()
    assert pool_variances(variance)[0].tolist() == pytest.approx([34, 25.75, 100, 20.8, 25.75, 1])


def test_students_t_by_number_of_groups():
    groups = pl.DataFrame({"groups": [None, 0, 1, 2, 3, 4, 5, 10, 31, 1001]})
    found = groups.select(t_quantile(pl.col("groups")))["groups"].to_list()
    assert found[:3] == [None, None, None]
    assert found[3:] == pytest.approx([stats.t.ppf(0.975, df) for df in (1, 2, 3, 4, 9, 30, 1000)], rel=1e-12)
    assert found[3:6] == pytest.approx([12.7062047, 4.3026527, 3.1824463], rel=1e-7), "published table"


def grouped(kind, curves, points, groups, seed=0):
    """[curves, points, groups] errors per group: of single points, shared by all, smooth, or drifting."""
    random = np.random.default_rng(seed)
    own = random.standard_normal((curves, points, groups))
    if kind == "shared":
        return 0.3 * own + 2 * random.standard_normal((curves, 1, groups))
    if kind == "walk":
        return own.cumsum(1)
    if kind == "drift":
        return 0.1 * own + 3 * np.linspace(-1, 1, points)[:, None] * random.standard_normal((curves, 1, groups))
    return own


def paired(errors):
    """Values and errors of curves whose truth is flat."""
    groups = errors.shape[2]
    values = errors.mean(2)
    return values, estimate_paired_errors((errors - values[:, :, None]) / np.sqrt(groups * (groups - 1)))


KINDS = ("independent", "shared", "walk", "drift")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("points", "groups"), [(5, 2), (5, 8), (12, 3), (12, 8), (28, 2), (28, 4)])
def test_paired_noise_moves_in_at_most_5_percent_of_curves(points, groups, kind):
    values, errors = paired(grouped(kind, CURVES, points, groups))
    rate = float(np.mean([bool(moves) for moves in curve_shapes.classify_curves(values, errors).moves]))
    print(f"paired, {kind} errors, {points} points, {groups} groups: {rate:.3f}")
    assert rate <= FALSE_POSITIVE_RATE + MARGIN


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [2, 3, 4, 8])
def test_paired_noise_over_154_points(groups, kind):
    values, errors = paired(grouped(kind, 200, 154, groups))
    rate = float(np.mean([bool(moves) for moves in curve_shapes.classify_curves(values, errors).moves]))
    print(f"paired, {kind} errors, 154 points, {groups} groups: {rate:.3f}")
    assert rate <= FALSE_POSITIVE_RATE + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_pairing_finds_what_shared_errors_hide():
    """A step of one shared standard error, which is ten of the points' own."""
    errors = grouped("shared", CURVES, 12, 4) + np.where(np.arange(12) < 6, 0, 2.0)[:, None]
    values, each = paired(errors)
    found = [bool(moves) for moves in curve_shapes.classify_curves(values, each).moves]
    alone = moving_rate(values, np.sqrt(errors.var(2, ddof=1) / 4), df=3)
    print(f"found with pairing {np.mean(found):.3f}, without {alone:.3f}")
    assert np.mean(found) > 0.95 > 0.2 > alone
