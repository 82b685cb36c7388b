"""Findings from similarity records: right words on synthetic lakes, rates of wrong ones on null histories."""

import warnings

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.analysis import compute_finding, summarize_finding
from pipeline.analysis.checkpoint_similarity import compare_checkpoints, measure_courses
from pipeline.analysis.model_convergence import match_blocks
from pipeline.analysis.recorded_cells import load_records
from pipeline.analysis.settling import find_settling
from pipeline.analysis.similarities import mean_similarity, require_comparable, shared_tokens
from pipeline.analysis.similarity_of_records import explain_nulls, similarity_of_records
from pipeline.errors import UsageError
from pipeline.geometry import record_layer
from pipeline.lake import Lake
from pipeline.lake.cell_records import parse_cell_records
from pipeline.lake.similarity_files import encode_records
from pipeline.report.similarity_tables import layer_matrices, settling_curves, step_matrices
from pipeline.similarity.kernels import KernelStack, compare_kernels
from pipeline.similarity.masked_kernels import compare_masked_layers
from pipeline.similarity.record import ComparedTokens
from pipeline.similarity.settings import Similarity
from tests.support import recorded_clouds as made

TOKENS = 64
STEPS = (0, 1, 3, 7, 15)
"""Equally spaced in log2 of the step plus one."""


def cloud(rng: np.random.Generator, tokens: int = TOKENS, dim: int = 24) -> np.ndarray:
    return rng.standard_normal((tokens, dim)) * np.arange(1, dim + 1) ** -0.7


def moving(rng: np.random.Generator, shares: list[float], tokens: int = TOKENS) -> list[np.ndarray]:
    """States that go from one cloud to another: the share of the other at each step."""
    first, last = cloud(rng, tokens), cloud(rng, tokens)
    return [np.sqrt(1 - share**2) * first + share * last + 0.02 * cloud(rng, tokens) for share in shares]


def history(lake, seed: int, shares: list[list[float]], model: str = "m", tokens: int = TOKENS) -> list[dict]:
    """Rows of a history whose block i has `shares[i]`."""
    rng = np.random.default_rng(seed)
    blocks = [moving(rng, each, tokens) for each in shares]
    return made.history(lake, model, {step: [block[i] for block in blocks] for i, step in enumerate(STEPS)})


def orders(rows: list[dict]) -> dict[str, str]:
    found = compute_finding("settling", made.frame(rows))
    return dict(found.filter(found["layer"].is_null()).select("measure", "verdict").iter_rows())


EARLY, LATE = [0, 0.95, 0.999, 1, 1], [0, 0.1, 0.3, 0.999, 1]


def test_lower_layers_that_settle_first_are_found_and_the_reverse(tmp_path):
    shares = [EARLY, [0, 0.6, 0.99, 1, 1], [0, 0.3, 0.9, 0.999, 1], LATE]
    assert orders(history(tmp_path / "a", 0, shares, tokens=128))["cka"] == "lower_first"
    assert orders(history(tmp_path / "b", 0, shares[::-1], tokens=128))["cka"] == "upper_first"


def test_layers_that_still_move_at_the_end_are_not_ordered(tmp_path):
    rows = history(tmp_path, 0, [[0, 0.2, 0.4, 0.6, 1]] * 4)
    assert set(orders(rows).values()) == {"unsettled"}


def test_a_block_has_its_start_its_null_and_its_control(tmp_path):
    found = compute_finding("settling", made.frame(history(tmp_path, 0, [EARLY] * 4, tokens=128)))
    block = found.filter(found["layer"] == 1, found["measure"] == "cka").to_dicts()[0]
    assert block["verdict"] == "settles"
    assert abs(block["start"]) < 0.2
    assert block["start_null"] == 0
    assert block["start_p"] > 0.05
    assert block["start_types"] == pytest.approx(block["start"])
    assert 0 <= block["settled_at_low"] <= block["settled_at"] <= block["settled_at_high"] <= 3
    assert block["settled_tokens"] == pytest.approx(1000 * block["settled_at"])


def test_the_settling_time_is_that_of_a_known_course():
    clock = np.arange(5.0)
    assert find_settling(np.array([0, 0.9, 1, 1, 1.0]), clock) == pytest.approx(1.5)
    assert find_settling(np.array([0.2, 0.2, 0.2, 1, 1.0]), clock) == pytest.approx(2.95)
    assert find_settling(np.ones(5), clock) == 0


def test_layers_with_one_geometry_and_layers_that_drift_apart(tmp_path):
    rng = np.random.default_rng(0)
    shared = cloud(rng, 256)
    alike = [shared + 0.1 * cloud(rng, 256) for _ in range(5)]
    walk = list(np.cumsum([cloud(rng, 256) for _ in range(5)], axis=0))
    for name, clouds, verdict in (("alike", alike, "one_geometry"), ("walk", walk, "graded")):
        rows = made.add_cell(Lake(tmp_path / name), name, 5, clouds)
        found = compute_finding("similarity", made.frame(rows))
        assert dict(found.select("measure", "verdict").iter_rows())["cka"] == verdict
        assert found["unrelated"].to_list() == pytest.approx([0, 1 / 255, 4 / 255, 16 / 255])
        assert found["p"][0] == 0.005


def a_history(lake, change) -> list[dict]:
    """Rows of a history of which `change(step)` gives the sinks, or NaN states where it is None."""
    rng = np.random.default_rng(0)
    blocks = [moving(rng, EARLY, 128) for _ in range(4)]
    rows = []
    for i, step in enumerate(STEPS):
        clouds, sinks = [block[i] for block in blocks], change(step)
        clouds = [np.full_like(each, np.nan) for each in clouds] if sinks is None else clouds
        rows += made.add_cell(Lake(lake), "m", step, clouds, sinks=np.zeros(128, bool) if sinks is None else sinks)
    return rows


@pytest.mark.parametrize("odd", STEPS)
@pytest.mark.parametrize(("share", "reason"), [(None, "no geometry"), (1.0, "too few ordinary tokens")])
def test_a_checkpoint_that_cannot_be_compared_is_left_out_and_named(tmp_path, odd, share, reason):
    """The others keep their rows, in findings and figures."""

    def change(step):
        count = 0 if step != odd else None if share is None else int(128 * share)
        return None if count is None else np.arange(128) < count

    table = made.frame(a_history(tmp_path, change)).with_columns(history=pl.lit("m"), text=pl.lit("text"))
    whole = compute_finding("settling", table).filter(pl.col("layer").is_null()).to_dicts()
    assert [row["checkpoints"] for row in whole] == [4, 4]
    assert all(row["left_out"] == [f"step{odd} ({reason})"] for row in whole)
    assert all(row["because"].endswith(f"Left out: step{odd} ({reason}).") for row in whole)
    assert {row["verdict"] for row in whole}.isdisjoint({"too_few"})
    others = [step for step in STEPS if step != odd]
    assert set(settling_curves(table)["step"]) == set(others)
    assert set(step_matrices(table)["step"]) == set(others)
    newest = compute_finding("similarity", table)
    assert set(newest["verdict"] == "too_few") == {odd == STEPS[-1]}
    assert layer_matrices(table).is_empty() == (odd == STEPS[-1])


def test_a_pair_of_checkpoints_uses_the_tokens_that_are_ordinary_in_both(tmp_path):
    """Each checkpoint has its own quarter of sinks, together all tokens; only pairs matter."""
    sinks = {step: np.arange(128) % 4 == i for i, step in enumerate(STEPS[:4])}
    rows = a_history(tmp_path, lambda step: sinks.get(step, np.zeros(128, bool)))
    cells = list(load_records(made.frame(rows).unique("cell_id").sort("step")).values())
    cells.sort(key=lambda cell: cell.about["step"])
    found = compute_finding("settling", made.frame(rows)).filter(pl.col("layer").is_null())
    assert set(found["checkpoints"]) == {5}
    (course, *_) = measure_courses(cells, "cka")
    (matrix,) = compare_checkpoints(cells, [1])
    for i, cell in enumerate(cells):
        one = similarity_of_records(cell, cells[-1], [(1, 1)]).row(0, named=True)
        assert course.value[i] == pytest.approx(one["cka"])
        assert matrix[i, -1] == matrix[-1, i] == pytest.approx(one["cka"], abs=1e-5)
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize("time", [0, 1])
def test_a_model_without_geometry_is_left_out_of_the_convergence_and_named(tmp_path, time):
    rng = np.random.default_rng(0)
    rows = []
    for model in ("a", "b", "c"):
        for step in (10, 1000):
            bad = (model, step) == ("c", (10, 1000)[time])
            clouds = [np.full((64, 8), np.nan) if bad else cloud(rng) for _ in range(3)]
            rows += made.add_cell(Lake(tmp_path), model, step, clouds)
    found = compute_finding("model_convergence", made.frame(rows))
    assert set(found["verdict"]) == {"unchanged"}
    assert found["left_out"].to_list() == [["c (no geometry)"]] * 2
    two = compute_finding("model_convergence", made.frame(row for row in rows if row["model"] != "a"))
    assert set(two["verdict"]) == {"too_few"}
    assert two["because"].str.contains(r"Left out: c \(no geometry\)").all()


def test_nothing_is_paired_with_a_model_without_blocks():
    bare, whole = cell([np.ones((64, 8))] * 3), cell([cloud(np.random.default_rng(0))] * 3)
    assert match_blocks(bare, whole) == match_blocks(whole, bare) == []
    value, without, *_ = mean_similarity(bare, whole, [], shared_tokens([bare, whole]), "cka")
    assert np.isnan(value)
    assert np.isnan(without).all()


def two_models(lake, seed: int, early: float, late: float, tokens: int = TOKENS) -> list[dict]:
    """Rows of two models whose blocks share a part of this size early and late."""
    rng = np.random.default_rng(seed)
    rows = []
    common = {step: [cloud(rng, tokens) for _ in range(3)] for step in (10, 1000)}
    for model in ("a", "b"):
        for step, share in ((10, early), (1000, late)):
            blocks = [share * each + cloud(rng, tokens) for each in common[step]]
            rows += made.add_cell(Lake(lake), model, step, blocks, [1, 2, 1])
    return rows


@pytest.mark.parametrize(
    ("early", "late", "verdict"), [(0.3, 3, "converge"), (3, 0.3, "diverge"), (0.5, 0.5, "unchanged")]
)
def test_models_that_meet_part_or_stay(tmp_path, early, late, verdict):
    found = compute_finding("model_convergence", made.frame(two_models(tmp_path, 1, early, late, 128)))
    assert dict(found.select("measure", "verdict").iter_rows()) == {"cka": verdict, "overlap_4": verdict}


def test_models_on_other_tokens_are_not_compared(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        row
        for model, digest in (("a", "x"), ("b", "y"))
        for step in (10, 1000)
        for row in made.add_cell(Lake(tmp_path), model, step, [cloud(rng)] * 3, tokens_digest=digest)
    ]
    found = compute_finding("model_convergence", made.frame(rows))
    assert set(found["verdict"]) == {"too_few"}


@pytest.mark.parametrize(("at_peak", "verdict"), [(3.0, "peak_more_alike"), (0.1, "peak_less_alike")])
def test_peaks_that_are_more_and_less_alike_than_elsewhere(tmp_path, at_peak, verdict):
    rng = np.random.default_rng(0)
    common = [cloud(rng, 128) for _ in range(5)]
    rows = []
    for model in ("a", "b"):
        shares = [1.2, 1.2, at_peak, 1.2, 1.2]
        blocks = [share * each + cloud(rng, 128) for share, each in zip(shares, common, strict=True)]
        rows += made.add_cell(Lake(tmp_path), model, 5, blocks, [5, 8, 12, 8, 5])
    found = compute_finding("peak_overlap", made.frame(rows)).to_dicts()
    assert {row["measure"]: row["verdict"] for row in found} == {"cka": verdict, "overlap_4": verdict}
    assert (found[0]["peak"], found[0]["other_peak"]) == (3, 3)


def test_the_findings_keep_the_contract_of_all_findings(tmp_path):
    rows = two_models(tmp_path / "a", 1, 0.3, 3) + history(tmp_path / "a", 0, [EARLY] * 4, "c")
    for name in WRONG:
        table = compute_finding(name, made.frame(rows))
        assert not table.is_empty()
        assert {"verdict", "rows", "because", "recipe", "corpus"} <= set(table.columns)
        assert table["rows"].min() >= 1  # type: ignore[operator]
        assert table["because"].str.ends_with(".").all()
        assert not table["because"].str.contains("None|nan|inf ").any()
        floats = table.select(pl.selectors.float())
        assert not any(column.is_nan().any() or column.is_infinite().any() for column in floats)
        assert compute_finding(name, made.frame([])).schema == table.schema
        brief = summarize_finding(name, table)
        assert brief.lines
        assert all(line.sentence for line in brief.lines)


def test_a_damaged_record_and_a_lake_without_records_are_left_out(tmp_path):
    rows = history(tmp_path, 0, [EARLY] * 4)
    path = next(tmp_path.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = compute_finding("settling", made.frame(rows))
    assert any("is left out" in str(one.message) for one in caught)
    assert found["checkpoints"].max() == 4
    assert compute_finding("settling", made.frame(rows).drop("records", "lake")).is_empty()


def cell(clouds, **fields):
    about = {"cell_id": "a" * 32, "model": "m", "revision": "r", "step": 1, "tokens_digest": "x", "corpus": "text"}
    about |= {"corpus_sha256": "c", "tokenizer_digest": "t", "recipe_fingerprint": "f"}
    known = {name: fields.pop(name) for name in list(fields) if name in about}
    return parse_cell_records(encode_records(made.record_rows(clouds, about | known, **fields), {}))


def test_two_cells_are_compared_layer_by_layer():
    rng = np.random.default_rng(0)
    clouds = [cloud(rng) for _ in range(3)]
    turned = [each @ np.linalg.qr(rng.standard_normal((24, 24)))[0] for each in clouds]
    found = similarity_of_records(cell(clouds), cell(turned))
    assert found["other_layer"].to_list() == [1, 2, 3]
    assert found["cka"].to_list() == pytest.approx([1] * 3, abs=1e-5)
    assert found["overlap_16"].to_list() == [1] * 3
    assert found["overlap_4_null"].to_list() == pytest.approx([4 / 63] * 3)
    sinks = np.arange(TOKENS) < 8
    assert similarity_of_records(cell(clouds, sinks=sinks), cell(turned))["tokens"].to_list() == [56] * 3


def test_imbalance_needs_ranks_and_tells_which_layer_predicts_the_other(monkeypatch):
    """All coordinates predict the neighbours by two of them better than the reverse; equal layers read 2 / n."""
    rng = np.random.default_rng(1)
    whole = cloud(rng)
    part, other = whole[:, :2], cloud(rng)
    assert similarity_of_records(cell([whole]), cell([part]))["imbalance"].to_list() == [None]
    monkeypatch.setattr(made, "settings", lambda tokens: Similarity(tokens=tokens, rank=32, neighbours=16, ranks=True))
    row = similarity_of_records(cell([whole]), cell([part])).row(0, named=True)
    assert row["imbalance"] < row["imbalance_back"] < 1
    assert row["imbalance_low"] < row["imbalance"] < row["imbalance_high"]
    same = similarity_of_records(cell([whole]), cell([whole * 3])).row(0, named=True)
    assert (same["imbalance"], same["imbalance_back"]) == (2 / TOKENS, 2 / TOKENS)
    unrelated = similarity_of_records(cell([whole]), cell([other])).row(0, named=True)
    assert unrelated["imbalance_low"] < 1 < unrelated["imbalance_high"]


@pytest.mark.parametrize(
    ("column", "says"),
    [("corpus_sha256", "corpus"), ("tokenizer_digest", "tokenizer"), ("recipe_fingerprint", "recipe")],
)
def test_records_of_other_tokens_name_the_one_thing_that_differs(column, says):
    clouds = [cloud(np.random.default_rng(0))] * 3
    with pytest.raises(UsageError, match=f"their {says} differs"):
        require_comparable(cell(clouds), cell(clouds, tokens_digest="y", **{column: "other"}))


def rate(words: list[str], wrong: set[str]) -> float:
    return sum(word in wrong for word in words) / len(words)


def null_words(folder, finding: str, groups: int, n: int) -> dict[str, list[str]]:
    """Verdicts by measure on `n` lakes in which nothing differs."""
    found: dict[str, list[str]] = {}
    for seed in range(n):
        rng = np.random.default_rng(seed)
        lake = folder / f"{finding}-{groups}-{seed}"
        if finding == "settling":
            blocks = [moving(rng, [0, 0.5, 0.9, 0.99, 1]) for _ in range(4)]
            clouds = {step: [block[i] for block in blocks] for i, step in enumerate(STEPS)}
            rows = made.history(lake, "m", clouds, groups=groups)
        elif finding in ("similarity", "rearrangement"):
            shared = cloud(rng)
            rows = made.add_cell(Lake(lake), "m", 5, [shared + 0.8 * cloud(rng) for _ in range(4)], groups=groups)
        else:
            rows = []
            steps = (10, 1000) if finding == "model_convergence" else (1000,)
            common = {step: [cloud(rng) for _ in range(4)] for step in steps}
            heights = [1.0, *(rng.permutation(2) + 2.0), 1.0]
            for model in ("a", "b"):
                for step in steps:
                    blocks = [each + 0.8 * cloud(rng) for each in common[step]]
                    rows += made.add_cell(Lake(lake), model, step, blocks, list(heights), groups=groups)
        table = compute_finding(finding, made.frame(rows))
        table = table.filter(table["layer"].is_null()) if "layer" in table.columns else table
        for measure, verdict in table.select("measure", "verdict").iter_rows():
            found.setdefault(measure, []).append(verdict)
    return found


WRONG = {
    "similarity": {"graded"},
    "rearrangement": {"gradual", "one_step"},
    "settling": {"lower_first", "upper_first"},
    "model_convergence": {"converge", "diverge"},
    "peak_overlap": {"peak_more_alike", "peak_less_alike"},
}


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("finding", WRONG)
def test_verdicts_on_null_histories_are_wrong_in_about_five_percent_at_most(tmp_path, finding, groups):
    """Rates of 100 lakes are printed; a rate of 5 % has a standard error of 2.2 %."""
    words = null_words(tmp_path, finding, groups, 100)
    rates = {measure: rate(found, WRONG[finding]) for measure, found in words.items()}
    print(f"RATE {finding} {groups} groups: {rates}")
    assert max(rates.values()) <= 0.11


@pytest.mark.parametrize("finding", WRONG)
def test_few_null_histories_get_a_verdict(tmp_path, finding):
    words = null_words(tmp_path, finding, 4, 10)
    assert max(rate(found, WRONG[finding]) for found in words.values()) <= 0.2


def test_an_overlap_without_ordinary_neighbours_is_null_with_its_reason(tmp_path):
    """Eight of 40 tokens are sinks, so that no list of 16 keeps 16 others."""
    rng = np.random.default_rng(0)
    sinks = np.arange(40) < 8
    rows = made.add_cell(Lake(tmp_path), "m", 5, [cloud(rng, 40) for _ in range(4)], sinks=sinks)
    row = compute_finding("similarity", made.frame(rows)).filter(measure="overlap_16").row(0, named=True)
    assert (row["verdict"], row["p"], row["ends"]) == ("too_few", None, None)
    few = "in a pair of blocks, only 0 of 32 ordinary tokens keep 16 ordinary neighbours, under a quarter"
    assert row["because"] == f"The blocks are not compared: {few}."
    found = similarity_of_records(*(cell([cloud(rng, 40)], sinks=sinks) for _ in range(2)))
    assert found["overlap_16"].to_list() == [None]
    assert found["overlap_4"].null_count() == 0
    reason = "overlap_16 is null in 1 of 1 layers: no compared token keeps 16 neighbours that are no sinks"
    assert explain_nulls(found) == [reason]


def test_the_control_of_token_types_has_its_own_null(tmp_path):
    """Half of the tokens are repetitions."""
    rng = np.random.default_rng(0)
    blocks = [moving(rng, EARLY, 128) for _ in range(4)]
    courses = {step: [block[i] for block in blocks] for i, step in enumerate(STEPS)}
    rows = made.history(tmp_path, "m", courses, token_ids=np.arange(128) % 64)
    table = compute_finding("settling", made.frame(rows)).filter(pl.col("layer") == 1)
    (row,) = table.filter(measure="overlap_4").to_dicts()
    assert row["start_null"] == pytest.approx(4 / 127)
    assert row["start_types_null"] == pytest.approx(4 / 63)
    assert "(unrelated layers 0.063)" in row["because"]


def wide(rng: np.random.Generator, dim: int) -> np.ndarray:
    """States of `dim` equal directions, of which records keep the first 32 only."""
    return rng.standard_normal((256, dim))


def test_no_order_is_judged_where_records_leave_out_much_of_the_kernels(tmp_path):
    """Blocks of 6 to 96 dimensions on one schedule: rank 32 alone would make the wide ones settle later."""
    rng, shares = np.random.default_rng(3), (0, 0.05, 0.3, 0.8, 0.97, 1)
    ends = [(wide(rng, dim), wide(rng, dim)) for dim in (6, 12, 24, 48, 96)]
    steps = {2**i: [np.sqrt(1 - s) * a + np.sqrt(s) * b for a, b in ends] for i, s in enumerate(shares)}
    found = compute_finding("settling", made.frame(made.history(tmp_path, "m", steps)))
    whole = found.filter(pl.col("layer").is_null(), measure="cka").row(0, named=True)
    assert (whole["verdict"], whole["claim"]) == ("truncated", "undecided")
    assert whole["bound"] > 0.1
    assert "No order is judged" in whole["because"]
    narrow = {step: clouds[:3] for step, clouds in steps.items()}
    found = compute_finding("settling", made.frame(made.history(tmp_path / "narrow", "m", narrow)))
    assert found.filter(pl.col("layer").is_null(), measure="cka")["verdict"].item() != "truncated"


def test_models_do_not_converge_by_what_records_leave_out(tmp_path):
    """Equal similarity early, at 96 dimensions, and late, at 24: only the leading components differ."""
    rng, rows, dims = np.random.default_rng(3), [], {10: 96, 1000: 24}
    shared = {step: [wide(rng, dim) for _ in range(4)] for step, dim in dims.items()}
    for model in "ab":
        noisy = {step: [x + 0.5 * wide(rng, x.shape[1]) for x in clouds] for step, clouds in shared.items()}
        rows += made.history(tmp_path, model, noisy, groups=8)
    row = compute_finding("model_convergence", made.frame(rows)).filter(measure="cka").row(0, named=True)
    assert row["change_low"] > 0.05, "without the bound, they converge"
    assert (row["verdict"], row["claim"]) == ("unchanged", "undecided")
    assert f"may differ by {row['bound']:.3f} more" in row["because"]


def test_ends_are_graded_only_if_whole_kernels_are(tmp_path):
    rng = np.random.default_rng(3)
    states = [wide(rng, 96)]
    for _ in range(3):
        states.append(states[-1] + 0.4 * wide(rng, 96))
    row = compute_finding("similarity", made.frame(made.history(tmp_path, "m", {5: states}))).filter(measure="cka")
    assert row["fall_low"].item() > 0
    assert row["bound"].item() > row["fall"].item()
    assert row["verdict"].item() == "undecided"


def test_matrices_of_masked_kernels_are_those_of_single_pairs():
    rng = np.random.default_rng(5)
    base = cloud(rng, 150)
    clouds = [torch.from_numpy(base + 0.3 * i * cloud(rng, 150)) for i in range(5)]
    records = [found for each in clouds if (found := record_layer(each, made.settings(150)))]
    masks = rng.random((5, 150)) > 0.1
    masks[3] = np.arange(150) < 5
    (found,) = compare_masked_layers([(records, masks)])
    for i, j in np.ndindex(5, 5):
        both = ComparedTokens(np.zeros(150, np.int16), masks[i] & masks[j])
        if both.count < 8:
            assert np.isnan(found[i, j])
        else:
            one = compare_kernels(KernelStack([records[i]], both), KernelStack([records[j]], both)).value[0, 0]
            assert found[i, j] == pytest.approx(one, abs=2e-6)


def test_a_rearrangement_without_values_says_why_and_has_nulls(tmp_path):
    """Such a row used to have NaN, and a wrong reason."""
    rng = np.random.default_rng(0)
    rows = made.add_cell(Lake(tmp_path), "m", 5, [cloud(rng, 40) for _ in range(5)], sinks=np.arange(40) < 8)
    row = compute_finding("rearrangement", made.frame(rows)).filter(measure="overlap_16").row(0, named=True)
    few = "in a pair of blocks, only 0 of 32 ordinary tokens keep 16 ordinary neighbours, under a quarter"
    assert row["because"] == f"The blocks are not compared: {few}."
    assert (row["verdict"], row["counted"]) == ("too_few", 0)
    assert [row[name] for name in ("neighbours", "ends", "fall", "kept", "largest")] == [None] * 5


def test_an_overlap_of_under_a_quarter_of_the_ordinary_tokens_is_not_judged(tmp_path):
    """With 60 sinks of 512 tokens, `overlap_16` of some pairs used to rest on 3 tokens; it said 452."""
    rng = np.random.default_rng(0)
    base, sinks = rng.standard_normal((512, 16)), np.zeros(512, bool)
    sinks[rng.choice(512, 60, replace=False)] = True
    clouds = [base + 0.3 * i * rng.standard_normal((512, 16)) for i in range(5)]
    rows = made.add_cell(Lake(tmp_path), "m", 5, clouds, sinks=sinks, groups=8)
    found = compute_finding("rearrangement", made.frame(rows)).rows_by_key("measure", named=True, unique=True)
    assert {name: row["verdict"] for name, row in found.items()} == {"overlap_4": "gradual", "overlap_16": "too_few"}
    assert (found["overlap_4"]["tokens"], found["overlap_4"]["counted"]) == (452, 452)
    assert found["overlap_16"]["counted"] < 20
    alike = compute_finding("similarity", made.frame(rows)).rows_by_key("measure", named=True, unique=True)
    assert [alike[name]["verdict"] for name in ("overlap_16", "overlap_4")] == ["too_few", "graded"]
    (records,) = load_records(made.frame(rows)).values()
    first = similarity_of_records(records, records, [(1, 2)]).row(0, named=True)
    assert (first["overlap_4_tokens"], first["tokens"]) == (452, 452)
    assert first["overlap_16_tokens"] < 113


def peaks_of(lake, clouds, dimension, **fields) -> list[dict]:
    rows = [row for model in "ab" for row in made.add_cell(Lake(lake), model, 5, clouds[model], dimension, **fields)]
    return compute_finding("peak_overlap", made.frame(rows)).to_dicts()


@pytest.mark.parametrize("dimension", [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
def test_models_without_an_interior_peak_are_not_compared_at_it(tmp_path, dimension):
    """The last block of a rising dimension used to be a peak, and could support the claim."""
    rng = np.random.default_rng(0)
    shared = [cloud(rng, 128) for _ in range(5)]
    noise = (0.3, 3, 3, 3, 0.3)
    clouds = {m: [x + size * cloud(rng, 128) for x, size in zip(shared, noise, strict=True)] for m in "ab"}
    for row in peaks_of(tmp_path, clouds, dimension):
        assert (row["verdict"], row["claim"], row["gain"]) == ("no_peak", "undecided", None)
        assert row["because"].endswith("the dimension of one is highest in its first or last block.")


def test_peaks_are_compared_with_the_mean_of_the_other_blocks_for_whole_kernels(tmp_path):
    """Another block may be more alike, and components beyond the recorded ones may decide."""
    rng, dimension = np.random.default_rng(0), [5, 6, 9, 6, 5, 5]
    shared = [rng.standard_normal((256, 24)) for _ in range(6)]
    parts = np.sqrt([0.1, 0.1, 0.6, 0.1, 0.8, 0.1])
    clouds = {
        model: [p * x + np.sqrt(1 - p**2) * rng.standard_normal(x.shape) for p, x in zip(parts, shared, strict=True)]
        for model in "ab"
    }
    row = peaks_of(tmp_path / "few", clouds, dimension, groups=8)[0]
    assert (row["measure"], row["verdict"], row["claim"]) == ("cka", "peak_more_alike", "supports")
    assert "than at the mean of their other layers is supported" in row["because"]
    assert row["bound"] < 0.01
    wide = {model: [np.hstack([x, 0.7 * rng.standard_normal((256, 300))]) for x in clouds[model]] for model in "ab"}
    row = peaks_of(tmp_path / "wide", wide, dimension, groups=8)[0]
    assert row["bound"] > row["gain"]
    assert (row["verdict"], row["claim"]) == ("undecided", "undecided")


def test_peaks_without_a_similarity_say_why(tmp_path):
    """They used to have no errors, for the want of groups."""
    rng = np.random.default_rng(0)
    clouds = [cloud(rng, 64) for _ in range(5)]
    clouds[2] = np.ones((64, 24)) * np.where(np.arange(64) == 3, 5, 1)[:, None]
    row = peaks_of(tmp_path, {"a": clouds, "b": clouds}, [1, 2, 3, 2, 1], sinks=np.arange(64) == 3)[0]
    assert (row["measure"], row["verdict"], row["at_peak"]) == ("cka", "too_few", None)
    assert row["because"].endswith("not compared: in a block, the compared tokens, or all but one, have one state.")
