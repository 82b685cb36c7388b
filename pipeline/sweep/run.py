"""One execution of a sweep: the plan is recorded, a backend runs the tasks if there are any, the lake is compacted."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pipeline.catalog.scratch import own_scratch, remove_stale
from pipeline.corpora import prepare_text_file
from pipeline.errors import LakeError, ShapelakeError
from pipeline.lake import Lake
from pipeline.lake.leases import LEASE_TIMEOUT
from pipeline.spec import Checkpoint, Sweep
from pipeline.sweep.audit_records import build_audit_record
from pipeline.sweep.backend import Backend, InlineBackend, TaskFunction, TaskFunctions
from pipeline.sweep.canary import with_canary
from pipeline.sweep.driver import Driver
from pipeline.sweep.parts import merge_plans, plan_parts
from pipeline.sweep.plan import Plan, limit_cells
from pipeline.sweep.ray_local import enable_local_ray_auth
from pipeline.sweep.run_progress import RunProgress
from pipeline.sweep.run_report import RunReport, merge_reports
from pipeline.sweep.watchdog import exit_on_timeout

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
BackendName = Literal["ray", "inline"]
READ_AHEAD_MIN_PARAMS = 100_000_000
"""Number of parameters from which on a local checkpoint is read ahead. Smaller ones load faster than a task starts."""
RAY_QUEUE_LENGTH = 62
"""Number of small tasks that are queued inside Ray beyond the slots, so that a worker can start the next one without
waiting for the driver. 10,000 empty tasks take 13 s with 64 tasks in flight, 21 to 28 s with two."""


def run_parts(
    sweep: Sweep,
    lake: Lake,
    backend: BackendName,
    limit: int | None = None,
    retry_quarantined: bool = False,
    show_plan: Callable[[Plan], None] = lambda plan: None,
) -> tuple[Plan, RunReport]:
    """Plan and run the parts of a sweep in turn, and return the plan and the report of all of them together.

    No further part runs after a signal, after a part that stopped itself, or once `limit` cells were run. An error in a
    part also ends the sweep. If an earlier part had cells to run, their report is returned and has the error as its
    stop reason; otherwise the error is raised.

    Args:
        limit: maximum number of cells to run, over all parts.
        show_plan: receives the plan of each part before it runs.
    """
    plans: list[Plan] = []
    reports: list[RunReport] = []
    with closing(plan_parts(sweep, lake, retry_quarantined)) as parts:
        try:
            for whole_plan in parts:
                left = None if limit is None else limit - sum(len(plan.todo) for plan in plans)
                plans.append(limit_cells(whole_plan, left))
                show_plan(plans[-1])
                reports.append(report := run(plans[-1], lake, backend))
                if report.signal_number or report.stop_reason or left == len(plans[-1].todo):
                    break
        except ShapelakeError as error:
            if not any(plan.todo for plan in plans[: len(reports)]):
                raise
            reports[-1].stop_reason = str(error)
    return merge_plans(plans[: len(reports)]), merge_reports(reports, plans[-1].unlisted_models)


def run(plan: Plan, lake: Lake, backend: BackendName, work: TaskFunction | None = None) -> RunReport:
    """Measure the cells of the plan that the lake lacks.

    Args:
        work: replacement for the worker's task function, for tests of scale.
    """
    _record_plan(plan, lake)
    if not plan.todo:
        _release(lake, plan.to_release)
        return RunReport(quarantined_cells=plan.quarantined_cells)
    for corpus in plan.sweep.corpora:
        if corpus.sha256 is not None:
            prepare_text_file(corpus)  # download, unpack and clean once, before any worker starts
    remove_stale()  # scratch of killed runs
    run_id = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{uuid4().hex[:4]}"
    others = lake.active_runs(within=LEASE_TIMEOUT)
    lake.begin_run(run_id, plan.to_json())
    with own_scratch(), RunProgress(len(plan.todo), expected_s=plan.expected_s) as progress:
        progress.print_line(f"run {run_id}: {len(plan.todo)} cells, starting {backend}")
        for other in others:
            progress.print_line(f"run {other} may be active too; checkpoints that it is measuring are left to it")
        report = _drive(plan, lake, backend, work, run_id, progress)
        if not report.signal_number:
            _compact(lake, progress)
    return report


def _record_plan(plan: Plan, lake: Lake) -> None:
    """Record the recipe, the labels of committed cells and the audits of Hub histories."""
    lake.record_recipe(plan.sweep.recipe)
    lake.record_labels(plan.committed_checkpoints)
    for history, findings in zip(plan.histories, plan.audits, strict=True):
        if history.family_name != "local":
            lake.record_audit(build_audit_record(history, findings))


def _drive(
    plan: Plan, lake: Lake, name: BackendName, work: TaskFunction | None, run_id: str, progress: RunProgress
) -> RunReport:
    with closing(_open_backend(name, plan, work)) as backend:
        too_large = backend.find_too_large(plan.todo)
        backend.require_visible(_local_paths(plan, too_large))
        driver = Driver(plan, lake, backend, run_id, progress, too_large)
        _release(lake, plan.to_release & driver.cells.keys())
        return driver.run()


def _local_paths(plan: Plan, too_large: Mapping[str, str]) -> set[str]:
    """Return the files and folders that every node must see."""
    wanted = [cell.checkpoint for cell in plan.todo if cell.id not in too_large]
    corpora = {path for corpus in plan.sweep.corpora if (path := corpus.visible_path)}
    return corpora | {path for c in wanted for path in (c.path, c.tokenizer_path, c.base_path) if path}


def _compact(lake: Lake, progress: RunProgress) -> None:
    """Compact the lake if it has many cells that are not in its snapshot.

    A separate process does this, so that its failure cannot change the exit code of the run.
    """
    from pipeline.lake.snapshot import is_compaction_due, latest_snapshot  # loads polars

    try:
        if not is_compaction_due(lake):
            return
        before = latest_snapshot(lake.store)
        progress.print_line("compacting the lake")
        words = [sys.executable, "-m", "pipeline", "compact", "--lake", lake.uri]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")])}
        code = subprocess.run(words, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
        made = latest_snapshot(lake.store)
    except LakeError as error:
        progress.print_line(f"not compacted: {error}")
        return
    if made and made != before:
        progress.print_line(f"compacted {made.cells} cells")
    else:
        progress.print_line(f"not compacted: exit code {code}")


def _release(lake: Lake, released: Iterable[str]) -> None:
    for cell_id in released:
        lake.release(cell_id)


def _is_worth_fetching(checkpoint: Checkpoint) -> bool:
    """Return True for checkpoints on the Hub, and local ones large enough that reading ahead saves time."""
    return bool(checkpoint.remotes) or (checkpoint.n_params or 0) >= READ_AHEAD_MIN_PARAMS


def _open_backend(name: BackendName, plan: Plan, work: TaskFunction | None) -> Backend:
    from pipeline.sweep import worker

    resources = plan.sweep.resources
    small = not any(_is_worth_fetching(cell.checkpoint) for cell in plan.todo)
    ahead = 0 if small else resources.prefetch
    if name == "inline":
        measure = with_canary(work or worker.run_task)
        stages = TaskFunctions(worker.prefetch_task, measure, worker.discard_fetched)
        return InlineBackend(stages, ahead)
    if resources.address == "local":
        enable_local_ray_auth()
    from pipeline.sweep.ray_backend import RayBackend

    queue = RAY_QUEUE_LENGTH if small and resources.address == "local" and not resources.gpus else 0
    measure = with_canary(work or worker.run_task_with_timeout, exit_on_timeout)
    stages = TaskFunctions(worker.prefetch_task, measure, worker.discard_fetched)
    return RayBackend(stages, resources, ahead, queue)
