"""Similarity of layers in `compare`: equal to that of the two records, and a note wherever there is none."""

import pytest

from pipeline.analysis.comparison import compare
from pipeline.lake import open_lake
from pipeline.report import write_comparison
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
