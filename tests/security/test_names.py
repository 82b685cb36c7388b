"""Untrusted names of models, revisions, corpora and files: none can escape the lake or a node's scratch."""

from pathlib import Path

import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.catalog import revision_names
from pipeline.catalog.fetch import scratch_folder
from pipeline.catalog.hub_client import TreeEntry
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.errors import ShapelakeError
from pipeline.lake import Lake
from pipeline.spec import Corpus, HubFile, RemoteFiles, Resources
from pipeline.sweep.task import Task
from tests.security.fuzz import COUNTS, holds_for_all, hostile_names
from tests.support import stub_checkpoints as stub

path_parts = st.lists(st.sampled_from(["..", ".", "", "a", "b.json", "\0"]), max_size=5).map("/".join) | hostile_names


@pytest.mark.parametrize("count", COUNTS)
def test_a_revision_is_a_place_or_none(count):
    def holds(name: str) -> None:
        point = revision_names.parse_name(name)
        assert point is None or all(n is None or 0 <= n < 2**63 for n in (point.step, point.tokens, point.position))

    holds_for_all(count, hostile_names, holds)


@pytest.mark.parametrize("count", COUNTS)
def test_a_commit_stays_in_the_lake(count, tmp_path: Path):
    world = tmp_path / "world"
    lake = Lake(world / "deep" / "lake")
    stub.history(world / "runs", [0])
    known = inspect_checkpoint(world / "runs" / "step0")
    cell = stub_cell(known)

    def holds(drawn: tuple[str, str, str]) -> None:
        model, revision, digest = drawn
        checkpoint = known.model_copy(update={"model": model, "revision": revision, "weights_digest": digest})
        renamed = cell.model_copy(update={"checkpoint": checkpoint})
        task = Task(lake=lake.uri, run_id="r", checkpoint=checkpoint, cells=(renamed,), resources=Resources(cpus=1))
        try:
            stub.commit(task, renamed)
            lake.record_labels([checkpoint])
        except ShapelakeError:
            pass  # refused with a proper error
        assert {path.name for path in world.iterdir()} == {"runs", "deep"}
        assert {path.name for path in (world / "deep").iterdir()} <= {"lake"}

    texts = hostile_names.filter(lambda name: "\ud800" not in name)  # a lone surrogate is not valid text for Arrow
    holds_for_all(count, st.tuples(texts, texts, st.text("0123456789abcdef", min_size=1)), holds)
    assert lake.committed_cell_ids()


def stub_cell(checkpoint):
    from pipeline.spec import Cell, built_in_recipe

    return Cell(
        checkpoint=checkpoint, kind="decoder", corpus=Corpus(kind="random-uniform"), recipe=built_in_recipe("quick@1")
    )


@pytest.mark.parametrize("count", COUNTS)
def test_a_corpus_id_is_never_a_path(count):
    def holds(path: str) -> None:
        try:
            corpus = Corpus(kind="text", path=path)
        except ValidationError:
            return
        assert "/" not in corpus.id

    holds_for_all(count, hostile_names, holds)


@pytest.mark.parametrize("count", COUNTS)
def test_a_file_of_the_hub_stays_in_the_scratch(count, tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPELAKE_SCRATCH", str(tmp_path / "scratch"))
    known = inspect_checkpoint(stub.history(tmp_path / "runs", [0]) / "step0")

    def holds(drawn: tuple[str, str, str]) -> None:
        path, subfolder, repo = drawn
        try:
            file = HubFile(path=path, size=1, sha256="0" * 64)
            remote = RemoteFiles(repo=repo, commit="c" * 40, files=(file,), subfolder=subfolder)
        except ValidationError:
            return
        folder = scratch_folder(known.model_copy(update={"remote": remote}), "run")
        target = (folder / "path" / subfolder / path).resolve()
        assert target.is_relative_to(tmp_path / "scratch" / folder.name)

    holds_for_all(count, st.tuples(path_parts, path_parts, hostile_names), holds)


@pytest.mark.parametrize("count", COUNTS)
def test_a_listing_of_the_hub_names_files_of_its_own_alone(count):
    """A small file is cached under the blob id that the Hub states, so the id must be a plain hex string."""

    def holds(drawn: tuple[str, str]) -> None:
        path, oid = drawn
        try:
            entry = TreeEntry(path=path, size=1, oid=oid, sha256=None)
        except ValidationError:
            return
        assert set(entry.oid) <= set("0123456789abcdef")
        assert ".." not in entry.path.split("/")
        assert not entry.path.startswith("/")

    holds_for_all(count, st.tuples(path_parts, hostile_names | st.just("a" * 40)), holds)
