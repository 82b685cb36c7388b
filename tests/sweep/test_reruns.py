"""A rerun measures exactly the cells that the lake lacks."""

import shutil

import pytest

from pipeline.errors import UsageError
from pipeline.lake import Tombstone, open_lake
from pipeline.spec import Local
from pipeline.sweep.plan import limit_cells, make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Task
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import go, refuse


def test_every_wanted_cell_is_committed_once_and_a_rerun_submits_nothing(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1, 2, 10])
    plan, report = go(root, lake, n_corpora=2)
    assert (report.exit_code, report.committed, len(plan.cells)) == (0, 8, 8)
    assert lake.committed_cell_ids() == {cell.id for cell in plan.cells}
    plan, report = go(root, lake, refuse, n_corpora=2)
    assert (report.exit_code, report.committed, plan.todo) == (0, 0, ())


def test_one_new_checkpoint_runs_exactly_its_cells(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])
    go(root, lake)
    stub.history(root, [2])
    plan, report = go(root, lake)
    assert [cell.checkpoint.revision for cell in plan.todo] == ["step2"]
    assert plan.count_reasons() == {"new checkpoint": 1}
    assert len(stub.tries(root, 0)) == len(stub.tries(root, 2)) == report.committed == 1


def test_a_new_corpus_runs_alone_and_says_so(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])
    go(root, lake)
    plan, report = go(root, lake, n_corpora=2)
    assert plan.count_reasons() == {"missing corpus": 2}
    assert (report.exit_code, report.committed) == (0, 2)


def test_equal_weights_run_once_and_both_labels_get_rows(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1], same=True)
    plan, report = go(root, lake)
    assert (len(plan.checkpoints), len(plan.cells), report.committed) == (2, 1, 1)
    found = open_lake(lake.uri).sql("select step, count(*) from layers group by step order by step").fetchall()
    assert found == [(0, stub.LAYERS), (1, stub.LAYERS)]


def test_a_limit_runs_that_many_cells_and_a_rerun_the_rest(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1, 2, 3])
    report = run(limit_cells(make_plan(stub.sweep(root), lake), 3), lake, "inline", stub.work)
    assert (report.exit_code, report.committed) == (0, 3)
    _, report = go(root, lake)
    assert (report.exit_code, report.committed) == (0, 1)


def test_a_renamed_history_with_equal_content_costs_nothing(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1])
    go(root, lake)
    shutil.copytree(root, tmp_path / "copy")
    plan, report = go(tmp_path / "copy", lake, refuse)
    assert (plan.todo, report.exit_code) == ((), 0)
    assert {named.label.model for named in lake.labels()} == {"runs", "copy"}


def test_two_histories_of_one_name_are_refused(tmp_path, lake):
    wanted = stub.sweep(stub.history(tmp_path / "a" / "runs", [0]))
    other = stub.history(tmp_path / "b" / "runs", [0])
    (other / "step0" / "model.safetensors").write_bytes(b"others")
    two = wanted.model_copy(update={"checkpoints": (*wanted.checkpoints, Local(local=str(other)))})
    with pytest.raises(UsageError, match="two checkpoints have this label"):
        make_plan(two, lake)


def test_quarantined_cells_are_tried_again_when_asked_or_when_their_files_change(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "permanent", 1: "permanent"})
    go(root, lake)
    (root / "step0" / "fault").unlink()
    _, report = go(root, lake, retry=True)
    assert (report.committed, report.exit_code) == (1, 1)
    assert len(stub.tries(root, 1)) == 2
    (root / "step1" / "fault").unlink()
    (root / "step1" / "model.safetensors").write_bytes(b"repaired weights")
    _, report = go(root, lake)
    assert (report.committed, report.exit_code) == (1, 0)


def test_retrying_uncovers_a_committed_cell_whose_tombstone_was_for_a_failure(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0, 1], faults={0: "permanent"})
    plan, _ = go(root, lake)
    (root / "step0" / "fault").unlink()
    stub.work(
        Task(
            lake=lake.uri,
            run_id="r",
            checkpoint=plan.cells[0].checkpoint,
            cells=plan.cells[:1],
            resources=plan.sweep.resources,
        )
    )
    hidden = plan.cells[1].id
    lake.quarantine(Tombstone(cell_id=hidden, reason="looks odd", by="a person"))
    plan, report = go(root, lake, refuse, retry=True)
    assert lake.quarantined_cell_ids() == {hidden}, "what a person has hidden stays hidden"
    assert (report.exit_code, [cell.id for cell in report.quarantined_cells]) == (1, [hidden])
