"""Lake: commits, recipes, attempts, tombstones and runs."""

import json

import pytest

from pipeline.errors import RecipeDriftError, UsageError
from pipeline.lake import Lake, Tombstone, to_table
from pipeline.recipe import ContextRecipe, SnippetRecipe
from tests.support import lake_rows
from tests.support.lake_rows import failure
from tests.support.left_out_files import foreign_files, left_out_files


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def test_a_lake_that_does_not_exist_reads_as_empty(lake):
    assert lake.committed_cell_ids() == lake.quarantined_cell_ids() == set()
    assert lake.failure_counts() == {}
    assert lake.labels() == lake.tombstones() == lake.runs() == []
    lake.check_recipe(lake_rows.QUICK)
    assert not lake.store.root.exists()


def test_the_second_commit_of_a_cell_changes_nothing(lake):
    point = lake_rows.checkpoint(1)
    cell = lake_rows.cell(point)
    assert lake.commit(cell.id, point.model_key, to_table(lake_rows.rows(cell, id_twonn=1.0), {}))
    (key,) = lake.cell_files().values()
    data = lake.store.get(key)
    assert not lake.commit(cell.id, point.model_key, to_table(lake_rows.rows(cell, id_twonn=2.0), {}))
    assert lake.store.get(key) == data
    assert lake.committed_cell_ids() == {cell.id}


def test_rows_are_committed_under_their_own_cell_only(lake):
    point = lake_rows.checkpoint(1)
    with pytest.raises(ValueError, match="0" * 32):
        lake.commit("0" * 32, point.model_key, to_table(lake_rows.rows(lake_rows.cell(point)), {}))


def test_the_lake_carries_the_meaning_of_its_columns(lake):
    from pipeline.columns import column_names, read_csv_bytes

    lake_rows.commit(lake, lake_rows.checkpoint(1))
    lines = lake.store.get("columns.csv").decode().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == list(column_names())
    lake.store.put_or_replace("columns.csv", "\n".join(lines[:-1]).encode())
    lake_rows.commit(Lake(lake.uri), lake_rows.checkpoint(2))
    assert lake.store.get("columns.csv") == read_csv_bytes(), "the file of an older version gets the new column"


def test_a_recipe_that_changed_under_its_version_is_refused_with_every_change(lake):
    lake.record_recipe(lake_rows.QUICK)
    lake.record_recipe(lake_rows.QUICK)
    changed = lake_rows.QUICK.model_copy(update={"k": 32, "seed": 5})
    with pytest.raises(RecipeDriftError) as caught:
        lake.check_recipe(changed)
    for fact in ("quick@1", "seed 0 -> 5", "k 64 -> 32", "version 2"):
        assert fact in str(caught.value)
    assert isinstance(caught.value, UsageError)
    with pytest.raises(RecipeDriftError):
        lake.record_recipe(changed)
    lake.record_recipe(changed.model_copy(update={"version": 2}))


def test_another_form_of_recipe_under_the_same_version_is_drift(lake):
    lake.record_recipe(ContextRecipe(name="mine", version=1, contexts=2, context_tokens=8, kept_per_context=2))
    with pytest.raises(RecipeDriftError, match="snippets None -> 3"):
        lake.check_recipe(SnippetRecipe(name="mine", version=1, snippets=3))


def test_a_field_that_a_later_version_of_the_code_adds_is_no_drift(lake):
    old = lake_rows.QUICK.model_dump(mode="json")
    del old["allow_shorter"]
    lake.store.put_new("recipes/quick@1.json", json.dumps(old).encode())
    lake.check_recipe(lake_rows.QUICK)
    with pytest.raises(RecipeDriftError, match="allow_shorter False -> True"):
        lake.check_recipe(lake_rows.QUICK.model_copy(update={"allow_shorter": True}))


def test_failures_are_counted_by_class_from_file_names(lake):
    point = lake_rows.checkpoint(1)
    for error_class in ("crash", "crash", "host_oom"):
        lake.record_attempt(failure(point, error_class))
    lake.record_attempt(failure(lake_rows.checkpoint(2), "transient"))
    for key in lake.store.list("attempts/v1"):
        lake.store.put_or_replace(key, b"not even JSON")
    assert lake.failure_counts() == {
        lake_rows.cell(point).id: {"crash": 2, "host_oom": 1},
        lake_rows.cell(lake_rows.checkpoint(2)).id: {"transient": 1},
    }


def test_failures_come_back_whole_and_in_order(lake):
    point = lake_rows.checkpoint(1)
    failures = [failure(point, message=word, traceback="File ...") for word in ("first", "second")]
    for attempt in reversed(failures):
        lake.record_attempt(attempt)
    assert lake.failures({lake_rows.cell(point).id}) == failures
    assert lake.failures({"0" * 32}) == []


def test_a_tombstone_lasts_until_released_and_the_newest_reason_counts(lake):
    last = failure(lake_rows.checkpoint(1))
    lake.quarantine(last)
    assert lake.quarantined_cell_ids() == {last.cell_id}
    assert lake.tombstones()[0].failure == last
    assert lake.tombstones()[0].reason == "crash: the worker died"
    lake.quarantine(Tombstone(cell_id=last.cell_id, reason="by hand", by="me"))
    assert [stone.reason for stone in lake.tombstones()] == ["by hand"]
    assert lake.release(last.cell_id)
    assert not lake.release(last.cell_id)
    assert lake.quarantined_cell_ids() == set()


def test_an_invalid_record_is_left_out_and_named(lake):
    lake.quarantine(failure(lake_rows.checkpoint(1)))
    (key,) = lake.store.list("quarantine")
    lake.store.put_or_replace(key, b'{"reason": "no cell"}')
    with left_out_files() as messages:
        assert lake.tombstones() == []
    assert key in messages[0]
    lake.store.put_new("quarantine/notes.json", b"{}")
    with foreign_files() as messages:
        assert len(lake.quarantined_cell_ids()) == 1, "the cell stays hidden"
    assert "quarantine/notes.json" in messages[0]


def test_a_cell_id_cannot_be_a_path():
    with pytest.raises(ValueError, match="cell_id"):
        Tombstone(cell_id="../../evil", reason="", by="")


def test_a_run_shows_its_last_heartbeat(lake):
    lake.begin_run("run-1", {"cells": ["a"]})
    assert lake.runs() == []
    for done in (1, 2):
        lake.heartbeat("run-1", {"committed": done})
    lake.heartbeat("run-0", {"committed": 9})
    assert [(run["run_id"], run["committed"]) for run in lake.runs()] == [("run-1", 2), ("run-0", 9)]
    assert json.loads(lake.store.get("runs/run-1/plan.json")) == {"cells": ["a"]}
