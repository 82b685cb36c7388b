"""Output paths: an unwritable path is refused in two lines, and nothing is written."""

import os

import pytest

from pipeline import output_paths
from pipeline.errors import UsageError
from tests.support import finding_rows


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output") / "lake"
    finding_rows.commit(folder, [row for step in (0, 1) for row in finding_rows.profile("dome", step=step)])
    return folder


REFUSED = {
    "a figure in no folder": ("figure", "id-training", "-o", "none/x.png"),
    "a figure of no kind": ("figure", "id-training", "-o", "x.gif"),
    "a figure over a folder": ("figure", "id-training", "-o", "folder.svg"),
    "a report in no folder": ("report", "-o", "none/dir/r.html"),
    "a report of no kind": ("report", "-o", "r.txt"),
    "a report without a kind": ("report", "-o", "r"),
    "a report over a folder": ("report", "-o", "folder.html"),
    "a tracker's files over a file": ("export", "--to", "tensorboard", "file"),
    "a tracker's files in a file": ("export", "--to", "tensorboard", "file/boards"),
    "a tracker's files in no folder": ("export", "--to", "tensorboard", "none/boards"),
    "a dataset over a file": ("export", "--to", "hub", "me/demo", "-o", "file"),
    "a dataset in no folder": ("export", "--to", "hub", "me/demo", "-o", "none/demo"),
    "a dataset of no name": ("export", "--to", "hub", "me/a b"),
}


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_refused_in_two_lines(lake, tmp_path, shapelake, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    for name in ("folder.svg", "folder.html"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = shapelake(*words, "--lake", lake)
    assert (code, out, len(err.splitlines())) == (2, "", 2), err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_of_somebody_else_is_refused(tmp_path, monkeypatch):
    """`os.access` is patched, because it reports every path as writable to root."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for refused in (
        lambda: output_paths.require_writable_file("figure", tmp_path / "f.svg", [".svg"]),
        lambda: output_paths.require_writable_folder("x", tmp_path),
    ):
        with pytest.raises(UsageError, match=str(tmp_path)):
            refused()
    (tmp_path / "f.svg").write_text("")
    assert output_paths.require_writable_file("figure", tmp_path / "f.svg", [".svg"]) == tmp_path / "f.svg"


def test_what_is_not_there_yet_is_a_name_as_good_as_what_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boards").mkdir()
    assert [str(output_paths.require_writable_folder("x", name)) for name in ("new", "boards")] == ["new", "boards"]
    assert str(output_paths.require_writable_file("x", "f.svg", [".svg"])) == "f.svg"
