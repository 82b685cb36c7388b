"""Similarity of layers in `compare`: equal to that of the two records, and a note wherever there is none."""

import json
import re

import duckdb
import numpy as np
import polars as pl
import pytest

from pipeline.analysis import compute_finding
from pipeline.analysis.comparison import compare
from pipeline.analysis.model_batches import ModelRows
from pipeline.analysis.recorded_cells import load_records
from pipeline.lake import Lake, open_lake
from pipeline.lake.similarity_files import commit_records, encode_records
from pipeline.report import draw_figure, write_comparison
from pipeline.similarity.settings import Similarity
from tests.support import claim_rows, finding_rows, recorded_clouds
from tests.support.claim_rows import flat, history

FIRST, LAST = claim_rows.STEPS[0], claim_rows.STEPS[-1]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    rows = [*history({"anisotropy": flat(0.3)}, seed=1, model="a"), *history(seed=2, model="b")]
    uri = finding_rows.commit(tmp_path_factory.mktemp("lake"), rows).uri
    recorded_clouds.add_records(uri)
    return open_lake(uri)


def test_two_checkpoints_have_a_row_per_layer(reader):
    """The clouds of the support module move from one to an independent one, by the same share in every block."""
    found = compare(reader, f"a@step{FIRST}", f"a@step{LAST}").similarity
    assert found["layer"].to_list() == found["other_layer"].to_list() == [1, 2, 3, 4]
    assert found["step"].null_count() == 4
    near = compare(reader, f"a@step{claim_rows.STEPS[-2]}", f"a@step{LAST}").similarity
    assert (near["cka"] > found["cka"]).all()
    assert (near["overlap_4"] > found["overlap_4"]).all()
    assert ((found["cka_low"] < found["cka"]) & (found["cka"] < found["cka_high"])).all()


def test_histories_of_different_tokens_say_so_and_keep_their_rows(reader):
    found = compare(reader, "a", "b")
    assert found.similarity.is_empty()
    assert not found.rows.is_empty()
    (note,) = (note for note in found.notes if "no similarity" in note)
    assert "different tokens" in note


def test_a_side_without_records_is_named(tmp_path):
    bare = finding_rows.commit(tmp_path / "bare", [*history(seed=1, model="a"), *history(seed=2, model="b")])
    found = compare(bare, "a", "b")
    assert found.similarity.is_empty()
    (note,) = (note for note in found.notes if "no similarity" in note)
    assert "no similarity records of a and b" in note
    assert "add `similarity:`" in note


def test_the_command_and_the_page_show_it(reader, shapelake, tmp_path):
    labels = f"a@step{FIRST}", f"a@step{LAST}"
    _, printed, _ = shapelake("compare", *labels, "--lake", reader.uri)
    (cka,) = (line for line in printed.splitlines() if line.split()[:1] == ["cka"])
    assert "unrelated layers have 0.000" in cka
    page = write_comparison(compare(reader, *labels), tmp_path / "page.html", reader.uri).read_text()
    assert "Similarity: " in page
    assert "unrelated layers have 0.000 (CKA)" in page


def record_cell(uri: str, model: str, step: int, size: Similarity) -> None:
    """Add records of random states of this size to a cell."""
    query = "select cell_id, model, revision, step, corpus, corpus_sha256, kind, recipe, recipe_fingerprint from cells"
    (cell,) = open_lake(uri).query_frame(f"{query} where model = '{model}' and step = {step}").to_dicts()
    random = np.random.default_rng([step, ord(model)])
    digests = {"tokenizer_digest": "t", "contexts_digest": "d", "tokens_digest": f"n{size.tokens}"}
    clouds = [random.standard_normal((size.tokens, 12)) for _ in range(2)]
    rows = recorded_clouds.record_rows(clouds, cell | digests, size=size)
    commit_records(Lake(uri), cell["cell_id"], model, size.name, encode_records(rows, {}))


def test_the_largest_size_that_both_sides_have_is_compared(tmp_path):
    """The last checkpoint of one side also has a larger size, with and without ranks."""
    uri = finding_rows.commit(tmp_path, [*history(seed=1, model="a"), *history(seed=2, model="b")]).uri
    small, large = (Similarity(tokens=tokens, rank=8, neighbours=16) for tokens in (64, 128))
    for step in claim_rows.STEPS:
        for model in "ab":
            record_cell(uri, model, step, small)
    for size in (large, large.model_copy(update={"ranks": True})):
        record_cell(uri, "a", LAST, size)
    for labels in (("a", "b"), (f"a@step{LAST}", f"b@step{LAST}")):
        found = compare(open_lake(uri), *labels)
        assert set(found.similarity["tokens"]) == {64}, found.notes
    settled = compute_finding("settling", open_lake(uri))
    assert set(settled["checkpoints"]) == {len(claim_rows.STEPS)}


def test_histories_with_ranks_have_the_imbalance_of_the_last_step(tmp_path):
    """Findings and all other steps do not read the ranks."""
    uri = finding_rows.commit(tmp_path, [*history(seed=1, model="a"), *history(seed=2, model="b")]).uri
    for step in claim_rows.STEPS:
        for model in "ab":
            record_cell(uri, model, step, Similarity(tokens=32, rank=8, neighbours=8, ranks=True))
    found = compare(open_lake(uri), "a", "b").similarity
    known = found.filter(pl.col("imbalance").is_not_null())
    assert set(known["step"]) == {LAST}
    assert known.height == 2
    cells = load_records(ModelRows(open_lake(uri)).load(["a"]))
    assert all(record.ranks is None for cell in cells.values() for record in cell.layers.values())


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Two histories whose last common step is earlier on one corpus than on the other; the records have ranks."""
    rows = [*history(seed=1, model="a"), *history(seed=2, model="b")]
    other = {"corpus": "text:other", "contexts_digest": "other"}
    short = [*history(seed=3, model="a", **other), *history(seed=4, model="b", **other)]
    rows += [row for row in short if row["step"] <= claim_rows.STEPS[3]]
    uri = finding_rows.commit(tmp_path_factory.mktemp("uneven"), rows).uri
    size = Similarity(tokens=40, rank=8, neighbours=8, ranks=True)
    query = "select cell_id, model, revision, step, corpus, corpus_sha256, kind, recipe, recipe_fingerprint from cells"
    for cell in open_lake(uri).query_frame(query).to_dicts():
        random = np.random.default_rng([cell["step"], ord(cell["model"])])
        about = cell | {"tokenizer_digest": "t", "contexts_digest": "d", "tokens_digest": cell["corpus"]}
        clouds = [random.standard_normal((40, 12)) for _ in range(4)]
        data = encode_records(recorded_clouds.record_rows(clouds, about, size=size), {})
        commit_records(Lake(uri), cell["cell_id"], cell["model"], size.name, data)
    return open_lake(uri)


def test_each_corpus_is_shown_at_its_own_last_common_step(uneven, shapelake, tmp_path):
    page = tmp_path / "page.html"
    _, printed, _ = shapelake("compare", "a", "b", "--lake", uneven.uri, "-o", page)
    for name in ("anisotropy", "cka", "overlap_4"):
        lines = [line for line in printed.splitlines() if line.split()[:1] == [name]]
        assert ["text:book at step 16,000" in lines[0], "text:other at step 1,000" in lines[1]] == [True, True]
    assert "shown: the last of each corpus, recipe and kind" in printed
    assert "Similarity: text:other, quick@1, decoder, step 1,000" in page.read_text()
    (table,) = re.findall("Similarity of corresponding layers; cka bound.*?</table>", page.read_text(), re.S)
    assert table.count("text:other") == table.count("text:book") == 4


def test_each_corpus_has_the_imbalance_of_its_last_common_step(uneven):
    found = compare(uneven, "a", "b").similarity
    known = found.filter(pl.col("imbalance").is_not_null()).select("corpus", "step").unique().sort("corpus")
    assert known.rows() == [("text:book", LAST), ("text:other", claim_rows.STEPS[3])]


def test_the_bound_of_the_cka_is_printed_beside_it(uneven, shapelake):
    _, printed, _ = shapelake("compare", f"a@step{LAST}", f"b@step{LAST}", "--lake", uneven.uri)
    lines = {line.split()[0]: line for line in printed.splitlines() if line.startswith("  ")}
    ends = compare(uneven, f"a@step{LAST}", f"b@step{LAST}").similarity.sort("cka")["cka_bound"]
    assert re.findall(r"bound (\d\.\d{3}), in layer", lines["cka"]) == [f"{ends[0]:.3f}", f"{ends[-1]:.3f}"]
    assert "bound" not in lines["overlap_4"]


def test_records_of_two_neighbours_have_a_page_and_the_reason_of_their_nulls(tmp_path):
    rows = [*history(seed=1, model="a"), *history(seed=2, model="b")]
    uri = finding_rows.commit(tmp_path / "lake", [row for row in rows if row["step"] == LAST]).uri
    for model in "ab":
        record_cell(uri, model, LAST, Similarity(tokens=32, rank=8, neighbours=2))
    found = compare(open_lake(uri), "a", "b")
    page = write_comparison(found, tmp_path / "page.html", uri).read_text()
    assert "unrelated layers have 0.000 (CKA)." in page
    assert "on text:book, overlap_4 is null in 2 of 2 layers: the records have fewer neighbours" in found.notes


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Records of `a` without geometry at the last step; eight of 40 tokens are sinks."""
    folder = tmp_path_factory.mktemp("odd")
    uri = finding_rows.commit(folder, [*history(seed=1, model="a"), *history(seed=2, model="b")]).uri
    query = "select cell_id, model, revision, step, corpus, corpus_sha256, kind, recipe, recipe_fingerprint from cells"
    for number, cell in enumerate(open_lake(uri).query_frame(query).to_dicts()):
        random = np.random.default_rng(number)
        bad = (cell["model"], cell["step"]) == ("a", LAST)
        clouds = [np.full((40, 8), np.nan) if bad else random.standard_normal((40, 8)) for _ in range(4)]
        about = cell | {"tokenizer_digest": "t", "contexts_digest": "d", "tokens_digest": "n"}
        rows = recorded_clouds.record_rows(clouds, about, sinks=np.arange(40) < 8)
        commit_records(Lake(uri), cell["cell_id"], cell["model"], "t40-r32-k16", encode_records(rows, {}))
    return open_lake(uri)


def test_nulls_are_valid_json_with_a_reason_and_the_step_is_named(odd, shapelake):
    _, printed, _ = shapelake("compare", "a", "b", "--lake", odd.uri, "--json")
    assert "NaN" not in printed
    found = json.loads(printed)
    assert {row["overlap_16"] for row in found["similarity"]} == {None}
    assert any("no compared token keeps 16 neighbours" in note for note in found["notes"])
    assert f"no similarity on text:book: a has no geometry (step {LAST:,})" in found["notes"]
    _, printed, _ = shapelake("compare", "a", "b", "--lake", odd.uri)
    assert f"similarity of corresponding layers at step {claim_rows.STEPS[-2]:,} on the same tokens" in printed
    assert "nan" not in printed


def test_the_page_has_the_numbers_of_its_similarity_charts(odd, tmp_path):
    page = write_comparison(compare(odd, "a", "b"), tmp_path / "page.html", odd.uri).read_text()
    assert '<th scope="col">cka bound</th>' in page


@pytest.mark.parametrize(
    ("name", "models", "steps", "errors"),
    [
        ("similarity-layers", "b", 1, "Errors: not drawn"),
        ("similarity-steps", "a, b", 8, "Errors: not drawn"),
        ("settling", "a, b", 8, "Error bands: 95 % intervals, jackknife over groups of contexts"),
    ],
)
def test_captions_state_the_drawn_models_and_the_compared_tokens(odd, tmp_path, name, models, steps, errors):
    draw_figure(odd, name, tmp_path / "f.svg")
    caption = (tmp_path / "f.caption.md").read_text()
    lines = dict(line[2:].split(": ", 1) for line in caption.splitlines()[2:])
    assert (lines["Models"], lines["N"]) == (models, "32 compared tokens")
    assert f"{steps} checkpoints" in lines["Steps"]
    assert errors in caption
    sql = lines["Query (DuckDB)"].strip("`")
    assert set(duckdb.sql(sql).pl()["model"]) == set(models.split(", "))
