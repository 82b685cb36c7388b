"""A run that leaves many uncompacted cells compacts the lake; a failed compaction fails no run."""

import pytest

from pipeline.errors import LakeError
from pipeline.lake import Lake, snapshot
from pipeline.lake.manifest import LATEST_KEY, latest_snapshot
from pipeline.strict_model import canonical_json
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.support import stub_checkpoints as stub


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "COMPACT_THRESHOLD", 2)
    return Lake(tmp_path / "lake")


def swept(tmp_path, lake, steps):
    plan = make_plan(stub.sweep(stub.history(tmp_path / "runs", steps)), lake)
    return run(plan, lake, "inline", stub.work)


def test_cells_are_compacted_when_enough_of_them_are_loose(tmp_path, lake):
    held = []
    for steps in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3]):
        assert swept(tmp_path, lake, steps).exit_code == 0
        named = latest_snapshot(lake.store)
        held.append(named and named.cells)
    assert held == [None, 2, 2, 4]


@pytest.mark.parametrize("error", [LakeError("read it", "no", "Mend it"), MemoryError()])
def test_a_run_does_not_fail_because_its_lake_cannot_be_compacted(tmp_path, lake, monkeypatch, error, capsys):
    def fail(_: Lake) -> None:
        raise error

    monkeypatch.setattr(snapshot, "compact", fail)
    assert swept(tmp_path, lake, [0, 1]).exit_code == 0
    assert latest_snapshot(lake.store) is None
    assert "not compacted" in capsys.readouterr().err


def test_a_snapshot_without_a_column_of_today_is_written_anew(tmp_path, lake, monkeypatch):
    """Otherwise readers would open every cell file until a thousand new cells exist."""
    assert swept(tmp_path, lake, [0, 1]).exit_code == 0
    old = latest_snapshot(lake.store)
    assert old is not None
    before = old.model_copy(update={"columns": old.columns[:-1]})
    lake.store.put_or_replace(LATEST_KEY, canonical_json(before.model_dump(mode="json")).encode())
    assert swept(tmp_path, lake, [0, 1, 2]).exit_code == 0
    new = latest_snapshot(lake.store)
    assert new is not None
    assert (new.columns, new.cells) == (old.columns, 3)
    assert snapshot.compact_if_due(lake) is None
