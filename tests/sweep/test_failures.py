"""Table of faults, each with the test that shows its consequence.

| fault | test |
|---|---|
| unusable, missing, corrupt or non-finite checkpoint | test_bad_input::test_bad_checkpoints_are_listed_with_cause_and_command_and_the_others_finish |
| busy, slow or unreachable Hub | hub/test_fetch::test_a_busy_hub_delays_a_download |
| unreachable Hub: retried with back-off | sweep/test_budgets::test_transient_failures_are_retried_and_written_down |
| GPU out of memory: batch halved, three attempts | sweep/test_budgets::test_running_out_of_memory_halves_the_batch_until_the_budget_is_spent |
| node out of memory: memory of another slot, then quarantine | sweep/test_ray_backend::test_a_task_killed_for_its_memory_gets_that_of_another_slot |
| dead worker: five attempts, the last one alone | sweep/test_budgets::test_the_last_try_before_quarantine_runs_alone |
| dead worker, in every way | sweep/test_ray::test_crashes_hangs_and_exceptions_are_budgeted_and_the_good_ones_finish |
| stuck task: its stack is kept | sweep/test_ray::test_crashes_hangs_and_exceptions_are_budgeted_and_the_good_ones_finish |
| node out of memory, by Ray's monitor | sweep/test_ray_errors::test_who_takes_too_much_memory_is_killed_by_rays_monitor_gets_more_and_is_condemned |
| stuck task whose watchdog does not fire | cluster/test_nodes::test_the_driver_ends_a_task_on_another_node_whose_watchdog_does_not |
| task submitted to a node that was just lost | cluster/test_nodes::test_what_is_given_to_a_node_that_has_just_gone_is_preempted_and_the_next_try_goes_to_the_other |
| lost node: no quarantine | sweep/test_budgets::test_each_class_has_its_budget |
| lost node of a real cluster | chaos/test_chaos::test_whatever_is_killed_nothing_is_lost_doubled_or_condemned_wrongly |
| lost node with fetched files | cluster/test_nodes::test_what_a_lost_node_had_is_done_on_the_other |
| node where fetches fail: chosen last | sweep/test_nodes::test_a_node_where_fetching_fails_is_asked_last_until_it_works_again |
| stopped run or dead worker with files on other nodes | cluster/test_nodes::test_a_run_that_is_stopped_leaves_nothing_on_any_node |
| attempt presumed lost that finishes late | sweep/test_failures::test_an_attempt_that_was_given_up_may_finish_late |
| killed driver | sweep/test_resume::test_a_killed_driver_loses_nothing_and_repeats_nothing |
| lost Ray head | cluster/test_head_lost::test_a_driver_without_its_head_ends_and_a_rerun_does_the_rest |
| SIGTERM | sweep/test_drain::test_sigterm_drains_what_runs_keeps_what_is_committed_and_exits_143 |
| SIGTERM on Ray | sweep/test_ray_head::test_on_sigterm_four_tasks_of_three_seconds_are_finished_and_no_other_is_begun |
| `ray job stop` | cluster/test_job::test_a_sweep_is_watched_stopped_and_finished |
| no node can run the task | sweep/test_ray_backend::test_a_task_that_no_node_can_run_is_refused_with_what_the_nodes_have |
| no node has enough GPUs for a model | sweep/test_left_out::test_the_others_are_measured_and_what_is_left_out_is_listed_in_one_line |
| SIGTERM with tasks queued in Ray | sweep/test_ray::test_what_waits_within_ray_is_taken_back_when_the_run_is_told_to_stop |
| disk of the lake full | sweep/test_lake_faults::test_a_disk_that_fills_up_ends_the_run_with_whole_files_and_a_rerun_does_the_rest |
| one refused write of the lake | sweep/test_lake_faults::test_one_hiccup_of_the_lake_loses_no_retry |
| refused write for all running tasks at once | sweep/test_lake_faults::test_one_hiccup_that_hits_all_that_runs_at_once_counts_once |
| scratch disk full | hub/test_fetch::test_a_full_disk_is_a_failure_that_may_pass |
| scratch disk with room for one checkpoint | hub/test_end_to_end::test_a_disk_for_one_checkpoint_is_enough_for_all |
| defect that fails every task | sweep/test_circuit::test_a_defect_condemns_nobody_however_often_it_is_run_and_all_goes_on_when_it_is_mended |
| environment that Ray cannot create | sweep/test_ray_errors::test_an_environment_that_cannot_be_made_ends_the_run_and_condemns_nobody |
| changed schema or algorithm | lake/test_reader::test_the_newest_algorithm_counts_and_a_tombstone_brings_the_last_good_one_back |
| moved branch | hub/test_reruns::test_an_upload_over_an_old_label_runs_once_and_the_old_rows_stay |
| branch that moves between plan and fetch | hub/test_fetch::test_a_branch_that_moves_after_planning_changes_nothing |
| two drivers on one lake | sweep/test_two_drivers::test_each_cell_is_there_once_though_all_wanted_it |
"""  # noqa: E501

import re
from pathlib import Path

import pytest

from pipeline.lake import open_lake
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import go, refuse

TESTS = Path(__file__).resolve().parent.parent
ROWS = re.findall(r"^\| (.+) \| (\S+)::(\S+) \|$", __doc__ or "", re.MULTILINE)


@pytest.mark.parametrize(("file", "test"), sorted({row[1:] for row in ROWS}))
def test_the_table_names_tests_that_are_there(file, test):
    assert f"def {test}(" in (TESTS / f"{file}.py").read_text()


def test_an_attempt_that_was_given_up_may_finish_late(tmp_path, lake):
    root = stub.history(tmp_path / "runs", [0])
    lost: list[Task] = []

    def work(task: Task) -> list[Outcome]:
        if not lost:
            lost.append(task)
            return fail_all_cells(task, "preempted", "NodeDiedError: made for the test")
        return stub.work(task)

    plan, report = go(root, lake, work)
    assert (report.exit_code, report.committed) == (0, 1)
    (key,) = lake.cell_files().values()
    before = lake.store.get(key)
    assert stub.work(lost[0]) == [Outcome(cell_id=plan.cells[0].id, n_rows=stub.LAYERS)]
    assert (lake.store.get(key), list(lake.cell_files().values())) == (before, [key])
    go(root, lake, refuse)


def test_two_drivers_on_one_lake_write_each_cell_once(tmp_path, lake, capsys):
    """The second, which says so, runs from start to end while the first is at its first task."""
    root = stub.history(tmp_path / "runs", [0, 1, 2])
    seconds = []

    def work(task: Task) -> list[Outcome]:
        if not seconds:
            seconds.append(go(root, lake, n_corpora=2)[1])
        return stub.work(task)

    _, first = go(root, lake, work, n_corpora=2)
    assert (first.exit_code, seconds[0].exit_code) == (0, 0)
    assert (first.committed, seconds[0].committed, len(lake.cell_files())) == (6, 6, 6)
    rows = open_lake(lake.uri).sql("select count(*), count(distinct (cell_id, layer)) from layers").fetchall()
    assert rows == [(6 * stub.LAYERS, 6 * stub.LAYERS)]
    first_id, second_id = (run["run_id"] for run in sorted(lake.runs(), key=lambda run: run["when"], reverse=True))
    said = capsys.readouterr().err
    assert f"run {first_id} may be active too" in said
    assert f"run {second_id} may be active" not in said, "the first had begun before, and a third finds both ended"
    lake.store.put_or_replace(f"runs/{first_id}/progress.json", b"")
    go(stub.history(root, [3]), lake)
    assert "may be active" not in capsys.readouterr().err, "nor does a record that cannot be read stop it"
