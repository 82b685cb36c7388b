"""A run that leaves many uncompacted cells compacts the lake; a failed compaction fails no run."""

from pathlib import Path

import pytest

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


@pytest.mark.parametrize("end", ["error", "abort"])
def test_a_run_does_not_fail_because_its_lake_cannot_be_compacted(tmp_path, lake, monkeypatch, end, capsys):
    if end == "error":
        lake.store.put_new("snapshots", b"a file where the folder should be")
    else:
        monkeypatch.setattr("pipeline.sweep.run.sys.executable", _aborting(tmp_path))
    assert swept(tmp_path, lake, [0, 1]).exit_code == 0
    assert latest_snapshot(lake.store) is None
    assert "not compacted: exit code" in capsys.readouterr().err


def _aborting(folder: Path) -> str:
    """An interpreter that ends like one that is out of memory."""
    program = folder / "python"
    program.write_text("#!/bin/sh\nkill -ABRT $$\n")
    program.chmod(0o755)
    return str(program)


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
    assert not snapshot.is_compaction_due(lake)
