"""Replay to trackers: sorted, equal to the lake, and idempotent after repeats and kills."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import lake as lakes
from pipeline.errors import UsageError
from pipeline.export import replay_runs
from pipeline.export.tracker_runs import iter_tracker_runs
from tests.support import finding_rows

ORDER = (64, 1, 1000, 0)
"""Order in which the cells are committed."""


def rows(steps=ORDER):
    """Return two layers on a text and on random tokens; each number encodes its step and layer."""
    return [
        finding_rows.row(
            step=step,
            layer=layer,
            depth=layer / 2,
            corpus=corpus,
            anisotropy=step / 1e4 + layer / 10,
            loss=3.5,
            linearity=None,
            flags=["next_layer_constant"],
        )
        for step in steps
        for corpus in ("text:book", "random-uniform")
        for layer in (1, 2)
    ]


@pytest.fixture
def reader(tmp_path):
    stateless = [finding_rows.row(step=None, revision="main", model="lab/other")]
    return finding_rows.commit(tmp_path / "lake", [*rows(), *stateless])


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and modification time of every file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_is_a_history_on_a_text_sorted_by_step(reader):
    random, text = iter_tracker_runs(reader)
    assert (random.name, text.name) == (
        "lab--small/decoder/random-uniform/quick@1",
        "lab--small/decoder/text-book/quick@1",
    )
    assert [point.step for point in random.points] == sorted(ORDER)
    assert random.points[2].values["anisotropy/layer_02"] == 64 / 1e4 + 0.2
    assert random.points[2].values["loss"] == 3.5
    assert "linearity/layer_01" not in random.points[0].values, "nulls are omitted"


def accumulated(folder: Path, run: str):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / run), size_guidance={"scalars": 0})
    read.Reload()
    return read


def test_tensorboard_reads_back_the_values_of_the_lake(reader, tmp_path):
    done = replay_runs(reader, "tensorboard", tmp_path / "boards")
    assert (done.runs_written, done.runs_unchanged) == (2, 0)
    read = accumulated(tmp_path / "boards", "lab--small/decoder/text-book/quick@1")
    query = "SELECT step, anisotropy FROM layers WHERE corpus = 'text:book' AND layer = 2 ORDER BY step"
    events = [(event.step, pytest.approx(event.value, rel=1e-6)) for event in read.Scalars("anisotropy/layer_02")]
    assert reader.query_frame(query).rows() == events
    times = [event.wall_time for event in read.Scalars("loss")]
    measured = reader.query_frame(
        "SELECT written_at FROM layers WHERE corpus = 'text:book' AND layer = 1 ORDER BY step"
    )
    assert times == [when.timestamp() for (when,) in measured.rows()]
    assert all(tag.startswith("loss") or "/layer_" in tag for tag in read.Tags()["scalars"])


def test_a_second_replay_writes_nothing_and_a_new_checkpoint_only_its_run(reader, tmp_path):
    folder = tmp_path / "boards"
    replay_runs(reader, "tensorboard", folder)
    before = files(folder)
    assert replay_runs(lakes.open_lake(reader.uri), "tensorboard", folder)[:2] == (0, 2)
    assert files(folder) == before
    late = [row for row in rows([8]) if row["corpus"] == "text:book"]
    assert replay_runs(finding_rows.commit(tmp_path / "lake", late), "tensorboard", folder)[:2] == (1, 1)
    read = accumulated(folder, "lab--small/decoder/text-book/quick@1")
    assert [event.step for event in read.Scalars("loss")] == [0, 1, 8, 64, 1000], "sorted, not appended"


def test_after_a_kill_the_next_replay_makes_the_same_files(reader, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    replay_runs(reader, "tensorboard", whole)

    def killed(source, target):
        if "text-book" in str(target):
            raise KeyboardInterrupt
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        replay_runs(reader, "tensorboard", broken)
    read = accumulated(broken, "lab--small/decoder/text-book/quick@1")
    assert read.Tags()["scalars"] == [], "a partial file has no data"
    monkeypatch.setattr(os, "replace", rename)
    assert replay_runs(reader, "tensorboard", broken)[:2] == (1, 1)
    assert {name: data for name, (data, _) in files(broken).items()} == {
        name: data for name, (data, _) in files(whole).items()
    }


def test_a_missing_tracker_is_named_with_its_extra(reader, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "pipeline.export.to_wandb", raising=False)
    with pytest.raises(UsageError, match=r"wandb is not installed.*\n.*shapelake\[wandb\]"):
        replay_runs(reader, "wandb", tmp_path)


def test_a_tracker_that_is_imported_late_is_checked_first(reader, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UsageError, match=r"trackio is not installed.*\n.*shapelake\[trackio\]"):
        replay_runs(reader, "trackio", tmp_path / "db")
    assert not (tmp_path / "db").exists()


def test_runs_to_synchronize_are_not_written_among_others(reader, tmp_path, monkeypatch):
    """`wandb sync FOLDER/offline-run-*` would upload these too."""
    written = []
    module = SimpleNamespace(write_run=lambda run, folder: written.append(run) or True)
    monkeypatch.setitem(sys.modules, "pipeline.export.to_wandb", module)
    monkeypatch.setattr("pipeline.export.tracker_runs.find_spec", lambda name: name)
    (tmp_path / "wandb" / "offline-run-1-mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds other files"):
        replay_runs(reader, "wandb", tmp_path / "wandb")
    assert written == []
    assert [replay_runs(reader, "wandb", tmp_path / "a b")[:2] for _ in range(2)] == [(2, 0)] * 2
    assert "'" in replay_runs(reader, "wandb", tmp_path / "a b").view_command


def needs(extra: str) -> None:
    if importlib.util.find_spec(extra) is None:
        pytest.skip(f"needs the extra [{extra}]")


@pytest.mark.slow
def test_wandb_offline(reader, tmp_path, monkeypatch):
    needs("wandb")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "runs"
    assert replay_runs(reader, "wandb", folder)[:2] == (2, 0)
    before = files(folder)
    assert replay_runs(reader, "wandb", folder)[:2] == (0, 2)
    assert files(folder) == before
    (run, *_) = iter_tracker_runs(reader)
    (written,) = folder.glob(f"offline-run-*-{run.digest}/run-*.wandb")
    points = history(written)
    assert [int(point["checkpoint_step"]) for point in points] == sorted(ORDER)
    assert float(points[2]["anisotropy/layer_02"]) == 64 / 1e4 + 0.2
    (folder / ".shapelake-partial").mkdir()
    assert replay_runs(finding_rows.commit(tmp_path / "lake", rows([8])), "wandb", folder)[:2] == (2, 0), (
        "a grown run is a new run"
    )
    assert len(list(folder.glob("offline-run-*"))) == 4


def history(path: Path) -> list[dict[str, str]]:
    """Parse the logged points in a file of W&B."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("history"):
            found.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
    return found


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log: 32 KiB blocks; each part has a 7-byte header (checksum, length, kind)."""
    record, position = b"", 7
    while position + 7 <= len(data):
        if (rest := -position % 32_768) < 7:
            position += rest
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a complete record, or its last part
            yield record
            record = b""


@pytest.mark.slow
def test_trackio_locally(reader, tmp_path, monkeypatch):
    needs("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "db"))
    assert replay_runs(reader, "trackio", tmp_path / "db")[:2] == (2, 0)
    assert replay_runs(reader, "trackio", tmp_path / "db")[:2] == (0, 2)
    from trackio.sqlite_storage import SQLiteStorage

    (run, *_) = iter_tracker_runs(reader)
    points = SQLiteStorage.get_logs("shapelake", run.name)
    assert [point["step"] for point in points] == sorted(ORDER)
    assert points[2]["anisotropy/layer_02"] == 64 / 1e4 + 0.2
    assert replay_runs(finding_rows.commit(tmp_path / "lake", rows([8])), "trackio", tmp_path / "db")[:2] == (2, 0)
    grown = SQLiteStorage.get_logs("shapelake", run.name)
    assert [point["step"] for point in grown] == [0, 1, 8, 64, 1000], "replaced, not doubled"
