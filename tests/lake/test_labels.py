"""Labels: several may share one measurement, and a label may later point to other content."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from pipeline import lake as lakes
from pipeline.errors import LakeError
from pipeline.lake import Label, Lake
from pipeline.lake import labels as module
from pipeline.lake.labels import parse_labels
from pipeline.lake.layout import LABELS_PREFIX, TIMESTAMP_FORMAT, V1_LABELS_PREFIX
from pipeline.lake.snapshot import compact
from pipeline.lake.verify import verify_lake
from pipeline.spec import Checkpoint
from tests.support import lake_rows

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def ask(lake, sql):
    return lakes.open_lake(lake.uri).sql(sql).fetchall()


def test_a_label_has_every_field_of_a_checkpoint_except_file_locations():
    omitted = {"path", "tokenizer_path", "base_path", "remote", "tokenizer_remote", "base_remote"}
    omitted |= {"n_params", "n_blocks"}
    assert set(Label.model_fields) == set(Checkpoint.model_fields) - omitted | {"content", "seen_at"}


def test_a_label_is_recorded_again_only_if_it_changed(lake):
    points = [lake_rows.checkpoint(step) for step in (1, 2)]
    assert lake.record_labels(points) == 2
    assert lake.record_labels(points) == 0
    assert lake.record_labels([lake_rows.checkpoint(1, path="/elsewhere")]) == 0, (
        "the location of the files does not count"
    )
    assert lake.record_labels([lake_rows.checkpoint(1, family="Small"), points[1]]) == 1
    assert lake.record_labels([lake_rows.checkpoint(1, weights="new")]) == 1


def test_a_call_writes_one_file_for_all_new_labels_or_none(lake):
    points = [lake_rows.checkpoint(step) for step in range(5)]
    lake.record_labels(points)
    lake.record_labels(points)
    lake.record_labels([*points, lake_rows.checkpoint(7), lake_rows.checkpoint(7)])
    assert [len(json.loads(lake.store.get(key))) for key in lake.store.list(LABELS_PREFIX)] == [5, 1]


def by_name(named):
    return named.label.name, named.label.content


def rewrite_as_v1(lake):
    """Rewrite the labels in the form of earlier versions: one record per file."""
    for key in lake.store.list(LABELS_PREFIX):
        for label in parse_labels(key, lake.store.get(key)):
            name = f"{label.seen_at:{TIMESTAMP_FORMAT}}-{label.name_digest}-{label.digest_without_time}.json"
            lake.store.put_new(f"{V1_LABELS_PREFIX}/model_key=any/{name}", label.model_dump_json().encode())
        lake.store.delete(key)


def test_v1_labels_count_the_same_with_and_without_a_snapshot(lake):
    points = [lake_rows.checkpoint(1), lake_rows.checkpoint(2), lake_rows.checkpoint(3, weights="lab/small 2")]
    lake.record_labels(points)
    lake.record_labels([lake_rows.checkpoint(1, weights="moved")])
    lake_rows.commit(lake, points[0])
    before = sorted(lake.labels(), key=by_name)
    rewrite_as_v1(lake)
    assert sorted(Lake(lake.uri).labels(), key=by_name) == before
    assert verify_lake(lake) == []
    older = Lake(lake.uri)
    assert older.record_labels([lake_rows.checkpoint(1, weights="moved"), *points[1:]]) == 0
    assert older.record_labels([lake_rows.checkpoint(1, weights="moved again"), lake_rows.checkpoint(4)]) == 2
    compact(older)
    assert sorted(Lake(lake.uri).labels(), key=by_name) == sorted(older.labels(), key=by_name)
    assert len(older.labels()) == len(before) + 2


def test_two_open_lakes_see_each_others_labels(lake):
    other = Lake(lake.uri)
    assert lake.record_labels([lake_rows.checkpoint(1)]) == 1
    assert other.record_labels([lake_rows.checkpoint(1), lake_rows.checkpoint(2)]) == 1
    assert lake.record_labels([lake_rows.checkpoint(1), lake_rows.checkpoint(2)]) == 0
    assert [named.label for named in lake.labels()] == [named.label for named in other.labels()]


@pytest.mark.parametrize("data", [b"", b"[", b"{}", b"[{}]", b'[{"model": 1}]', b"null"])
def test_a_file_that_holds_no_labels_is_named(lake, data):
    key = f"{LABELS_PREFIX}/20260101T000000.000000Z-{'0' * 32}.json"
    lake.store.put_new(key, data)
    with pytest.raises(LakeError, match=key):
        lake.labels()
    assert [problem.key for problem in verify_lake(lake)] == [key]


def test_two_labels_of_equal_content_share_one_measurement_and_each_has_rows(lake):
    first, second = lake_rows.checkpoint(1, weights="w"), lake_rows.checkpoint(8, weights="w", stage="late")
    lake.record_labels([first, second])
    lake_rows.commit(lake, first)
    query = "select revision, step, stage, duplicate_of, superseded, count(*) from layers group by all order by step"
    assert ask(lake, query) == [
        ("step1", 1, None, "lab/small@step8", False, lake_rows.LAYERS),
        ("step8", 8, "late", "lab/small@step1", False, lake_rows.LAYERS),
    ]
    assert ask(lake, "select count(*) from cells") == [(1,)]


def test_a_label_of_another_model_gets_rows_too(lake):
    first, second = (
        lake_rows.checkpoint(1, weights="w"),
        lake_rows.checkpoint(1, weights="w", model="lab/renamed", family="New"),
    )
    lake.record_labels([first, second])
    lake_rows.commit(lake, first)
    query = "select distinct model, family, duplicate_of from layers order by all"
    assert ask(lake, query) == [
        ("lab/renamed", "New", "lab/small@step1"),
        ("lab/small", None, "lab/renamed@step1"),
    ]


def test_equal_weights_with_another_tokenizer_are_duplicates_but_share_no_measurement(lake):
    first, second = (
        lake_rows.checkpoint(1, weights="w"),
        lake_rows.checkpoint(2, weights="w", tokenizer_digest=lake_rows.sha("other")),
    )
    lake.record_labels([first, second])
    lake_rows.commit(lake, first)
    assert ask(lake, "select distinct step, duplicate_of from layers") == [(1, "lab/small@step2")]
    assert ask(lake, "select step, duplicate_of from checkpoints order by 1") == [
        (1, "lab/small@step2"),
        (2, "lab/small@step1"),
    ]


def test_duplicate_of_is_the_other_label_seen_first_then_with_the_lowest_step(lake, monkeypatch):
    """Steps 4 and 2 are seen at the same time, step 1 later, so the order is 2, 4, 1."""
    monkeypatch.setattr(module, "utc_now", lambda: NOON)
    lake.record_labels([lake_rows.checkpoint(step, weights="w") for step in (4, 2)])
    monkeypatch.setattr(module, "utc_now", lambda: NOON + timedelta(hours=1))
    lake.record_labels([lake_rows.checkpoint(1, weights="w")])
    assert ask(lake, "select step, duplicate_of from checkpoints order by 1") == [
        (1, "lab/small@step2"),
        (2, "lab/small@step4"),
        (4, "lab/small@step2"),
    ]


def reupload(lake, *words):
    """Let one label point to each of these weights in turn, measured each time."""
    for word in words:
        point = lake_rows.checkpoint(1, weights=word)
        lake.record_labels([point])
        if lake_rows.cell(point).id not in lake.committed_cell_ids():
            lake_rows.commit(lake, point, id_twonn=float(len(word)))


def test_after_a_reupload_old_rows_stay_and_are_superseded(lake):
    reupload(lake, "a", "bb")
    query = "select distinct id_twonn, superseded from layers order by all"
    assert ask(lake, query) == [(1.0, True), (2.0, False)]
    assert ask(lake, "select count(*), sum(superseded::int) from checkpoints") == [(2, 1)]


def test_after_a_return_to_the_old_weights_the_others_are_superseded(lake):
    reupload(lake, "a", "bb", "a")
    assert ask(lake, "select distinct id_twonn, superseded from layers order by all") == [(1.0, False), (2.0, True)]


@pytest.mark.parametrize("edited", ["config_digest", "tokenizer_digest"])
def test_after_an_edit_of_config_or_tokenizer_only_the_current_content_is_not_superseded(lake, edited):
    before, after = (
        lake_rows.checkpoint(1, weights="w"),
        lake_rows.checkpoint(1, weights="w", **{edited: lake_rows.sha("edited")}),
    )
    for point, value in ((before, 1.0), (after, 2.0)):
        lake.record_labels([point])
        lake_rows.commit(lake, point, id_twonn=value, algorithm=6 - int(value))  # older code may measure newer content
    query = "select distinct id_twonn, superseded, duplicate_of from layers order by all"
    assert ask(lake, query) == [(1.0, True, None), (2.0, False, None)]
    assert ask(lake, "select count(*) from layers where not superseded") == [(lake_rows.LAYERS,)]
    lake.record_labels([before])
    assert ask(lake, query) == [(1.0, False, None), (2.0, True, None)]


def test_a_record_is_later_than_the_one_it_corrects_even_if_the_clock_goes_back(lake, monkeypatch):
    monkeypatch.setattr(module, "utc_now", lambda: NOON)
    lake.record_labels([lake_rows.checkpoint(1, weights="a")])
    monkeypatch.setattr(module, "utc_now", lambda: NOON - timedelta(days=1))
    lake.record_labels([lake_rows.checkpoint(1, weights="b")])
    current = [named.label for named in lake.labels() if not named.superseded]
    assert [label.weights_digest for label in current] == [lake_rows.sha("b")]


def test_a_label_that_moved_is_no_longer_named_as_duplicate(lake):
    lake.record_labels([lake_rows.checkpoint(1, weights="w"), lake_rows.checkpoint(2, weights="w")])
    lake.record_labels([lake_rows.checkpoint(1, weights="fixed")])
    assert ask(lake, "select step, superseded, duplicate_of from checkpoints order by all") == [
        (1, False, None),
        (1, True, "lab/small@step2"),
        (2, False, None),
    ]


def test_the_newest_label_record_describes_older_cells(lake):
    point = lake_rows.checkpoint(1)
    lake.record_labels([point])
    lake_rows.commit(lake, point)
    lake.record_labels([lake_rows.checkpoint(1, family="Small", tokens_seen=5)])
    assert ask(lake, "select distinct family, tokens_seen, superseded from layers") == [("Small", 5, False)]


def test_a_cell_without_a_label_record_keeps_its_own_label(lake):
    lake_rows.commit(lake, lake_rows.checkpoint(3))
    assert ask(lake, "select distinct model, step, duplicate_of, superseded from layers") == [
        ("lab/small", 3, None, False)
    ]
    assert ask(lake, "select model, step, kind, kinds, superseded from checkpoints") == [
        ("lab/small", 3, "decoder", ["decoder"], False)
    ]


def test_checkpoints_includes_labels_without_a_measurement(lake):
    lake.record_labels([lake_rows.checkpoint(1), lake_rows.checkpoint(2, kinds=("encdec-encoder", "encdec-decoder"))])
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    assert ask(lake, "select step, kinds, arch, content is null from checkpoints order by step") == [
        (1, ["decoder"], "word", False),
        (2, ["encdec-encoder", "encdec-decoder"], None, False),
    ]
