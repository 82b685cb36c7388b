"""Comparisons of checkpoints, histories, corpora, and of a run with its population, on lakes with known differences."""

import json

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.comparison import HEADLINE_METRICS, compare
from pipeline.analysis.population import compute_population
from pipeline.errors import UsageError
from pipeline.report import FigureOptions, draw_figure, write_comparison, write_population
from tests.support import claim_rows, finding_rows
from tests.support.claim_rows import RANDOM, TEXT, flat, history, over_depth

LAST = claim_rows.STEPS[-1]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Two models with a known difference on text and one on random tokens; a wide one on another text; an encoder."""
    dome = {"anisotropy": over_depth(0.2), "loss": claim_rows.over_training(6, 3)}
    rows = [
        *history({"anisotropy": flat(0.3), "loss": flat(3)}, seed=1, model="lab/a"),
        *history(dome, seed=1, model="lab/b"),
        *history({"anisotropy": flat(0.1)}, seed=2, model="lab/a", corpus=RANDOM, contexts_digest="random"),
        *history(seed=3, model="lab/other", corpus="text:wiki", contexts_digest="wiki"),
        *history(seed=4, model="lab/enc", kind="encoder"),
    ]
    return finding_rows.commit(tmp_path_factory.mktemp("lake"), rows)


def row(found, **keys):
    chosen = found.rows.filter(
        *(pl.col(name).is_null() if value is None else pl.col(name) == value for name, value in keys.items())
    )
    return chosen.row(0, named=True)


def test_two_checkpoints_are_compared_in_pairs(reader):
    found = compare(reader, f"lab/a@step{LAST}", f"lab/b@step{LAST}")
    assert found.of == "checkpoints"
    top = row(found, metric="anisotropy", layer=4)
    assert top["low"] < 0.2 * np.sin(np.pi * 3 / 7) < top["high"]
    assert top["paired"]
    assert top["high"] - top["low"] < 0.03
    mean = row(found, metric="anisotropy", layer=None)
    blocks = found.rows.filter(metric="anisotropy", state="block")
    assert mean["difference"] == pytest.approx(blocks["difference"].mean())
    assert set(found.rows["metric"]) >= set(HEADLINE_METRICS) - {"id_twonn", "participation_ratio"}


def test_the_difference_is_exactly_that_of_independent_code(reader):
    found = row(compare(reader, f"lab/a@step{LAST}", f"lab/enc@step{LAST}", [TEXT]), metric="id_mle", layer=3)
    where = f"step = {LAST} AND layer = 3 AND model IN ('lab/a', 'lab/enc') AND corpus = '{TEXT}'"
    sql = f"SELECT model, id_mle_groups FROM layers WHERE {where}"
    groups = dict(reader.query_frame(sql).iter_rows())
    from scipy import stats

    apart = np.subtract(groups["lab/enc"], groups["lab/a"])
    low, high = stats.t.interval(0.95, len(apart) - 1, apart.mean(), stats.sem(apart))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["difference"] == pytest.approx(apart.mean())


def test_two_histories_are_compared_at_their_common_steps(reader):
    found = compare(reader, "lab/a", "lab/b")
    assert found.of == "histories"
    losses = found.rows.filter(metric="loss").sort("step")
    assert losses["step"].to_list() == list(claim_rows.STEPS)
    assert losses["difference"][0] == pytest.approx(3, abs=0.1)
    assert losses["difference"][-1] == pytest.approx(0, abs=0.1)


def test_two_corpora_are_compared_unpaired(reader):
    found = compare(reader, "lab/a", corpora=[TEXT, RANDOM])
    assert found.of == "corpora"
    mean = row(found, metric="anisotropy", layer=None)
    assert mean["difference"] == pytest.approx(-0.2, abs=0.02)
    assert not mean["paired"]
    assert "unpaired" in found.notes[0]
    assert compare(reader, "lab/a", "lab/a", [TEXT, RANDOM]).rows.equals(found.rows)


def test_an_encoder_and_a_decoder_compare_with_a_note(reader):
    found = compare(reader, "lab/a", "lab/enc", [TEXT])
    assert any("causal and a masked loss" in note for note in found.notes)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lab/a", "lab/other"), "the corpora differ: random-uniform, text:book against text:wiki"),
        (("lab/a",), "both sides are the same"),
        (("lab/a", f"lab/a@step{LAST}"), "both sides are the same"),
        (("lab/a", "lab/b", ["text:*", "text:*"]), "both labels and corpora differ"),
        (("lab/a", None, [TEXT, TEXT]), "text:book is named twice"),
        (("lab/a", None, ["*", TEXT]), r"\* matches random-uniform, text:book, text:wiki"),
        (("lab/b@step64", f"lab/a@step{LAST}", [RANDOM]), "it was measured on text:book"),
        (("lab/aa", "lab/b"), "did you mean 'lab/a'"),
        (("lab/a@step1", "lab/b"), "no such revision"),
        (("lab/a", "lab/b", ["text:boook"]), "which has random-uniform"),
        (("lab/a", "lab/b", [TEXT, RANDOM]), "both labels and corpora differ"),
        (("lab/a", None, [TEXT, RANDOM, TEXT]), "3 corpora"),
        (("lab/b", None, [TEXT, RANDOM]), "it was measured on text:book"),
    ],
)
def test_sides_that_do_not_compare_are_refused_with_the_one_thing_that_differs(reader, words, says):
    with pytest.raises(UsageError, match=says):
        compare(reader, *words)


def test_equal_recipes_are_needed(tmp_path):
    members = [*history(model="lab/a"), *history(model="lab/b", recipe_fingerprint="other")]
    reader = finding_rows.commit(tmp_path, members)
    with pytest.raises(UsageError, match="the same name and different fields"):
        compare(reader, "lab/a", "lab/b")


def part(model, steps=claim_rows.STEPS, **changes):
    return [row for row in history(model=model, **changes) if row["step"] in steps]


def test_each_key_in_common_but_no_combination_is_refused_with_the_combination(tmp_path):
    early, late, other = claim_rows.STEPS[:4], claim_rows.STEPS[4:], {"corpus": "text:wiki", "contexts_digest": "w"}
    rows = [*part("a", early), *part("a", late, **other), *part("b", late), *part("b", early, **other)]
    crossed = finding_rows.commit(tmp_path / "steps", rows)
    steps = "corpus and step is on both sides: text:book 0, 64, 256, 1000; text:wiki 2000, 4000, 8000, 16000 against"
    with pytest.raises(UsageError, match=f"no combination of {steps} text:book 2000"):
        compare(crossed, "a", "b")
    assert not compare(crossed, "a@step64", f"b@step{LAST}", [TEXT]).rows.is_empty()
    kinds = [*part("a", (LAST,), kind="encoder"), *part("a", (LAST,), **other)]
    kinds += [*part("b", (LAST,)), *part("b", (LAST,), kind="encoder", **other)]
    stacks = "decoder text:wiki; encoder text:book against decoder text:book; encoder text:wiki"
    with pytest.raises(UsageError, match=f"kind of layer stack and corpus is on both sides: {stacks}"):
        compare(finding_rows.commit(tmp_path / "kinds", kinds), "a", "b")


def test_only_combinations_that_both_sides_have_are_counted(tmp_path):
    """A block of an encoder at another depth, on a corpus on which the other side has its decoder."""
    odd = [row | {"depth": 0.33} for row in part("b", (LAST,), kind="encoder", corpus="text:wiki") if row["layer"] == 1]
    rows = [*part("a", (LAST,)), *part("a", (LAST,), corpus="text:wiki")]
    rows += [*part("a", (LAST,), kind="encoder", corpus="text:news"), *part("b", (LAST,)), *odd]
    found = compare(finding_rows.commit(tmp_path, rows), "a", "b")
    assert set(found.rows["corpus"]) == {TEXT}
    assert not any("blocks" in note for note in found.notes)


def test_no_difference_is_significant_in_five_percent(tmp_path):
    """Intervals of single layers of 30 pairs of equal models; errors are shared by layers, so pairs are the units."""
    members = [
        each
        for number in range(12)
        for each in history(seed=number, model=f"lab/m{number:02d}")
        if each["step"] == LAST and each["layer"] in (3, 9)
    ]
    reader = finding_rows.commit(tmp_path, members)
    hits = []
    for number in range(0, 12, 2):
        rows = compare(reader, f"lab/m{number:02d}", f"lab/m{number + 1:02d}").rows.drop_nulls("low")
        hits += ((rows["low"] > 0) | (rows["high"] < 0)).to_list()
    print(f"significant in {np.mean(hits):.1%} of {len(hits)} differences of equal models")
    assert np.mean(hits) <= 0.15


def test_a_glob_selects_corpora_as_the_refusals_recommend(reader):
    found = compare(reader, "lab/a", "lab/b", ["text:*"])
    assert found.rows.equals(compare(reader, "lab/a", "lab/b").rows)
    assert str(found.first) == "lab/a on text:*"
    assert set(compare(reader, "lab/a", corpora=["text:bo*", RANDOM]).rows["corpus"]) == {TEXT}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A model with a first stage and four runs of a second, and a model with one run."""
    rows = history({"anisotropy": flat(0.1)}, seed=1, model="olmo", stage="1", run=None)
    for run in range(1, 5):
        rows += history({"anisotropy": flat(0.5 + run / 100)}, seed=run, model="olmo", stage="2", run=str(run))
    rows += history({"anisotropy": flat(0.3)}, seed=9, model="y", stage=None, run=None)
    return finding_rows.commit(tmp_path_factory.mktemp("stages"), rows)


def test_a_model_with_several_runs_is_refused_with_the_choices(stages):
    runs = "it has 5 runs: olmo · 1, olmo · 2 · 1, olmo · 2 · 2, olmo · 2 · 3, olmo · 2 · 4"
    for labels in (("olmo", "y"), ("y", "olmo"), ("olmo", f"y@step{LAST}")):
        with pytest.raises(UsageError, match=runs):
            compare(stages, *labels)
    with pytest.raises(UsageError, match=runs):
        compute_population(stages, "olmo")


def test_a_run_is_named_as_findings_print_it(stages):
    for first, level in (("olmo · 1", 0.1), ("olmo · 2 · 3", 0.53)):
        found = compare(stages, first, "y")
        table = found.rows.filter(metric="anisotropy", layer=4)
        assert table["step"].to_list() == list(claim_rows.STEPS)
        assert table["a"].mean() == pytest.approx(level, abs=0.01)
        assert str(found.first) == first
    assert (found.first.stage, found.first.run) == ("2", "3")
    assert compare(stages, "olmo · 2 · 1", "olmo · 2 · 2").of == "histories"


def test_findings_and_claims_print_names_that_compare_accepts(stages, shapelake):
    for words in (("findings", "dome"), ("claims", "--models", "olmo")):
        _, printed, _ = shapelake(*words, "--lake", stages.uri)
        assert "  olmo · 2 · 3  " in printed
    assert compare(stages, "olmo · 2 · 3", "y").first.run == "3"


def test_a_kind_may_follow_the_model_as_peak_overlap_prints_it(stages):
    plain = compare(stages, "olmo · 2 · 3", "y")
    named = compare(stages, "olmo · decoder · 2 · 3", "y · decoder")
    assert (named.first, named.second) == (plain.first, plain.second)
    assert named.rows.equals(plain.rows)
    assert compare(stages, f"y@step{LAST} · decoder", "olmo · 1").of == "checkpoints"
    assert compute_population(stages, "olmo · decoder · 2 · 4").run.label == "olmo · 2 · 4"
    for wrong in ("y · encoder", "y · decoder · 1", "olmo · 9"):
        with pytest.raises(UsageError, match="has no such run") as error:
            compare(stages, wrong, "olmo · 1")
        assert "a run as MODEL · KIND · STAGE · RUN" in error.value.do


def test_a_kind_selects_one_of_the_stacks_of_a_model(tmp_path):
    wiki = {"kind": "encoder", "corpus": "text:wiki", "contexts_digest": "w"}
    rows = [row for number, model in enumerate("ab") for row in history(seed=number, model=model)]
    rows += [row for number, model in enumerate("ab") for row in history(seed=number, model=model, **wiki)]
    reader = finding_rows.commit(tmp_path, rows)
    found = compare(reader, "a · encoder", "b")
    assert (str(found.first), str(found.second)) == ("a · encoder", "b")
    assert set(found.rows["kind"]) == {"encoder"}
    assert set(compare(reader, "a", "b").rows["kind"]) == {"decoder", "encoder"}
    one = compare(reader, f"a@step{LAST} · encoder", "b").first
    assert one.label == f"a@step{LAST} · encoder"
    assert compare(reader, one.label, "b").first == one
    with pytest.raises(UsageError, match="both sides are the same"):
        compare(reader, "a", "a · encoder")


def test_other_runs_of_the_same_model_are_its_population(stages):
    found = compute_population(stages, "olmo · 2 · 4")
    assert found.others == ("olmo · 1", "olmo · 2 · 1", "olmo · 2 · 2", "olmo · 2 · 3", "y")
    assert set(found.rows["runs"]) == {5}
    assert found.rows.filter(metric="anisotropy")["outside"].all()


def test_one_checkpoint_of_several_runs_is_named_by_its_revision(stages):
    found = compare(stages, f"olmo@2 1 step{LAST}", f"olmo@2 2 step{LAST}")
    assert (found.of, found.first.run, found.second.run) == ("checkpoints", "1", "2")
    assert found.rows.filter(metric="anisotropy", layer=4).height == 1
    with pytest.raises(UsageError, match="no such revision"):
        compare(stages, "olmo@step99", "y")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Nine seeds of one size, the last with a dome; one of another size."""
    members = []
    for number in range(9):
        level = {"anisotropy": flat(0.3 + 0.01 * number) if number < 8 else over_depth(0.4)}
        members += history(level, seed=number, model=f"lab/seed{number}")
    members += history(seed=20, model="lab/big", n_params=2_000_000)
    return finding_rows.commit(tmp_path_factory.mktemp("seeds"), members)


def test_a_run_is_set_against_the_other_runs_of_its_size(seeds):
    found = compute_population(seeds, "lab/seed8")
    assert len(found.others) == 8
    middle = found.rows.filter(metric="anisotropy", layer=4, step=LAST).row(0, named=True)
    assert middle["runs"] == 8
    assert middle["outside"]
    assert middle["below"] == 1
    assert middle["median"] == pytest.approx(0.335, abs=0.01)
    assert middle["low"] == pytest.approx(np.quantile(0.3 + 0.01 * np.arange(8), 0.05), abs=0.01)


def test_one_checkpoint_of_a_run_and_one_corpus(seeds):
    found = compute_population(seeds, f"lab/seed3@step{LAST}", [TEXT])
    assert found.rows["step"].unique().to_list() == [LAST]
    inside = found.rows.filter(metric="anisotropy", layer=4).row(0, named=True)
    assert not inside["outside"]
    assert 0 < inside["below"] < 1


def test_the_population_is_at_equal_recipe_and_on_the_same_blocks(tmp_path):
    """One run by another recipe of the same name, one by older algorithms, one without a value in a block."""
    rows = [each for number in range(4) for each in history(seed=number, model=f"m{number}")]
    rows += history(seed=5, model="other", recipe_fingerprint="other") + history(seed=6, model="old", algorithm=5)
    holes = [
        each | ({"id_mle": None, "flags": ["tied_distances"]} if each["layer"] == 4 else {})
        for each in history(seed=7, model="holes")
    ]
    reader = finding_rows.commit(tmp_path, rows + holes)
    found = compute_population(reader, "m0")
    assert found.others == ("holes", "m1", "m2", "m3")
    means = found.rows.filter(pl.col("layer").is_null())
    assert dict(means.select("metric", "runs").unique().iter_rows()) | {"id_mle": 3} == {
        name: 3 if name == "id_mle" else 4 for name in set(means["metric"])
    }
    assert set(means.filter(metric="id_mle")["runs"]) == {3}
    assert "linearity" in set(means["metric"]), "no run has a value in the last block"
    with pytest.raises(UsageError, match="the same name as its recipe but other fields"):
        compute_population(reader, "other")


def test_refusals_of_a_population_name_what_is_wrong(seeds):
    with pytest.raises(UsageError, match="no such revision"):
        compute_population(seeds, "lab/seed3@step99")
    with pytest.raises(UsageError, match="no match in this lake"):
        compute_population(seeds, "lab/seed3", ["text:boo"])
    assert compute_population(seeds, "lab/seed3", ["text:*"]).rows.equals(compute_population(seeds, "lab/seed3").rows)


def test_a_run_without_others_of_its_size_is_refused(seeds, reader):
    with pytest.raises(UsageError, match="no other run of its kind, blocks, width and parameters"):
        compute_population(seeds, "lab/big")
    with pytest.raises(UsageError, match="are needed"):
        compute_population(reader, "lab/a")


def test_pages_are_whole_offline_files(reader, seeds, tmp_path):
    pages = [
        write_comparison(compare(reader, "lab/a", "lab/b"), tmp_path / "a.html", reader.uri),
        write_population(compute_population(seeds, "lab/seed8"), tmp_path / "c.html", seeds.uri),
    ]
    for page in pages:
        text = page.read_text()
        assert text.count("<svg") >= 1
        assert "<script" not in text
        assert "src=" not in text.replace("src data:", "")
        assert "shapelake compare lab/" in text
    page = write_population(compute_population(seeds, "lab/seed8", [TEXT]), tmp_path / "d.html", seeds.uri)
    assert "compare lab/seed8 --corpus text:book" in page.read_text()
    with pytest.raises(UsageError, match="html"):
        write_comparison(compare(reader, "lab/a", "lab/b"), tmp_path / "a.txt", reader.uri)


@pytest.mark.parametrize("name", ["population-depth", "population-training"])
def test_a_figure_shows_a_run_over_the_band_of_its_size(seeds, tmp_path, name):
    path = draw_figure(seeds, name, tmp_path / "f.svg", FigureOptions(run="lab/seed8", title=""))
    assert "cosine_mean" in path.read_text()
    assert "percentiles 5 to 95 of the other runs" in (tmp_path / "f.caption.md").read_text()
    with pytest.raises(UsageError, match="Write --run MODEL"):
        draw_figure(seeds, name, tmp_path / "f.svg")


def test_the_commands_print_lines_and_json(reader, seeds, shapelake):
    code, printed, _ = shapelake("compare", "lab/a", "lab/b", "--lake", reader.uri)
    assert (code, "8 common steps" in printed, "layers differ" in printed) == (0, True, True)
    code, printed, _ = shapelake("compare", "lab/a", "--corpus", f"{TEXT},{RANDOM}", "--lake", reader.uri, "--json")
    found = json.loads(printed)
    assert (found["of"], found["a"]["corpus"], found["rows"][0]["metric"]) == ("corpora", TEXT, "anisotropy")
    code, printed, _ = shapelake("compare", "lab/seed8", "--population", "--lake", seeds.uri)
    assert "against 8 other runs of its size" in printed
    code, _, refused = shapelake("compare", "lab/seed8", "lab/seed1", "--population", "--lake", seeds.uri)
    assert code == 2
    assert "two labels" in refused
