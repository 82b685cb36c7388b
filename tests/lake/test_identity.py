"""A run writes only to the lake that it began with, and notices at its end what has vanished."""

import shutil

import pytest

from pipeline.errors import LakeError
from pipeline.lake import Lake
from pipeline.sweep.task import Task, fail_all_cells
from pipeline.sweep.worker import classify_error, format_error
from tests.support import lake_rows
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import go


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def test_a_lake_keeps_the_id_of_its_first_run(lake):
    assert lake.identity.begin() == Lake(lake.uri).identity.begin()


@pytest.mark.parametrize("loss", ["deleted", "unmounted", "replaced", "damaged"])
def test_nothing_is_written_once_the_lake_is_another(lake, loss):
    lake_id = lake.identity.begin()
    other = Lake(f"{lake.uri}-2")
    other.identity.begin()
    root = lake.store.root
    if loss == "damaged":
        (root / "lake.json").write_bytes(b"\x00")
    else:
        shutil.rmtree(root)
    if loss == "unmounted":
        root.mkdir()
    if loss == "replaced":
        shutil.move(other.store.root, root)
    before = sorted(root.rglob("*")) if root.exists() else None
    writer = Lake(lake.uri, lake_id)
    for write in (
        lambda: lake_rows.commit(writer, lake_rows.checkpoint(1)),
        lambda: writer.heartbeat("run", {}),
        lambda: writer.record_labels([lake_rows.checkpoint(1)]),
        lambda: writer.record_attempt(lake_rows.failure(lake_rows.checkpoint(1))),
        lambda: writer.quarantine(lake_rows.failure(lake_rows.checkpoint(1))),
    ):
        with pytest.raises(LakeError, match="no longer the lake of this run"):
            write()
    assert (sorted(root.rglob("*")) if root.exists() else None) == before


def test_a_run_whose_lake_is_deleted_stops_and_does_not_make_it_anew(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(30)))
    done: list[str] = []

    def work(task: Task):
        done.append(task.checkpoint.label)
        if len(done) == 10:
            shutil.rmtree(lake.store.root)
        try:
            return [stub.commit(task, cell) for cell in task.cells]
        except LakeError as error:
            return fail_all_cells(task, classify_error(error), format_error(error))

    _, report = go(root, lake, work)
    assert report.exit_code == 1
    assert "no longer" in report.stop_reason
    assert (report.committed, report.lost, report.n_done) == (9, 9, 0)
    assert not lake.store.root.exists()


def test_cells_that_vanish_behind_a_run_are_counted_at_its_end(tmp_path, lake):
    root = stub.history(tmp_path / "runs", list(range(3)))
    done: list[str] = []

    def work(task: Task):
        outcomes = stub.work(task)
        done.append(task.checkpoint.label)
        if len(done) == 3:
            lake.store.delete(sorted(lake.cell_files().values())[0])
        return outcomes

    _, report = go(root, lake, work)
    assert (report.exit_code, report.committed, report.lost) == (1, 3, 1)
    assert "1 cells of this run are no longer in the lake" in report.stop_reason
