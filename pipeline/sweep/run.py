"""One execution of a sweep: plan, open a backend only if there is work, drive, report."""

from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

from pipeline.catalog.scratch import own_scratch, remove_stale
from pipeline.corpora import prepare_text_file
from pipeline.errors import LakeError
from pipeline.lake import Lake
from pipeline.spec import Checkpoint
from pipeline.sweep.audit_records import build_audit_record
from pipeline.sweep.backend import Backend, InlineBackend, TaskFunction, TaskFunctions
from pipeline.sweep.driver import HEARTBEAT_S, Driver, RunReport
from pipeline.sweep.plan import Plan
from pipeline.sweep.ray_auth import enable_local_ray_auth
from pipeline.sweep.run_progress import RunProgress

BackendName = Literal["ray", "inline"]
READ_AHEAD_MIN_PARAMS = 100_000_000
"""Parameters; the files of fewer are read in less time than a task takes to start."""
ACTIVE_WITHIN_S = 3 * HEARTBEAT_S
RAY_QUEUE_LENGTH = 62
"""Small tasks that wait within Ray: a worker has the next at once, where it else is idle until the driver has seen that
the last one ended. With 64 under way 10,000 tasks that do nothing take 13 seconds, with two 21 to 28."""


def run(plan: Plan, lake: Lake, backend: BackendName, work: TaskFunction | None = None) -> RunReport:
    """Measure what the plan still wants. `work` replaces the body of a task, for tests of scale."""
    lake.record_recipe(plan.sweep.recipe)
    lake.record_labels(plan.committed_checkpoints)
    for history in plan.histories:
        if history.family_name != "local":
            lake.record_audit(build_audit_record(history))
    if not plan.todo:
        _release(lake, plan.to_release)
        return RunReport(quarantined_cells=plan.quarantined_cells)
    for corpus in plan.sweep.corpora:
        if corpus.sha256 is not None:
            prepare_text_file(corpus)  # downloads, unpacks and cleans once, before anything else is started
    remove_stale()  # what killed runs have fetched
    run_id = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{uuid4().hex[:4]}"
    others = lake.active_runs(within_s=ACTIVE_WITHIN_S)
    lake.begin_run(run_id, plan.to_json())
    with own_scratch(), RunProgress(total=len(plan.todo)) as progress:
        progress.print_line(f"run {run_id}: {len(plan.todo)} cells, starting {backend}")
        for other in others:
            progress.print_line(
                f"run {other} may be under way too: what both want is measured twice, and nothing is lost"
            )
        with closing(_open_backend(backend, plan, work)) as opened:
            driver = Driver(plan, lake, opened, run_id, progress)
            _release(lake, plan.to_release & driver.cells.keys())
            report = driver.run()
        if not report.signal_number:
            _compact(lake, progress)
    return report


def _compact(lake: Lake, progress: RunProgress) -> None:
    """Many new files become one. A reader does without, so that what goes wrong here is said and fails no run."""
    from pipeline.lake.snapshot import compact_if_due  # polars, where no checkpoint waits for it

    try:
        if made := compact_if_due(lake):
            progress.print_line(f"compacted {made.cells} cells")
    except (LakeError, MemoryError) as error:
        progress.print_line(f"not compacted: {error}")


def _release(lake: Lake, released: Iterable[str]) -> None:
    for cell_id in released:
        lake.release(cell_id)


def _worth_fetching(checkpoint: Checkpoint) -> bool:
    """Whether it is on the Hub, or large enough that its files are read ahead."""
    return checkpoint.remote is not None or (checkpoint.n_params or 0) >= READ_AHEAD_MIN_PARAMS


def _open_backend(name: BackendName, plan: Plan, work: TaskFunction | None) -> Backend:
    from pipeline.sweep import worker

    resources = plan.sweep.resources
    small = not any(_worth_fetching(cell.checkpoint) for cell in plan.todo)
    ahead = 0 if small else resources.prefetch
    if name == "inline":
        return InlineBackend(
            TaskFunctions(worker.prefetch_task, work or worker.run_task, worker.discard_fetched), ahead
        )
    if resources.address == "local":
        enable_local_ray_auth()
    from pipeline.sweep.ray_backend import RayBackend

    queue = RAY_QUEUE_LENGTH if small and resources.address == "local" and not resources.gpus else 0
    ray = RayBackend(
        TaskFunctions(worker.prefetch_task, work or worker.run_task_with_timeout, worker.discard_fetched),
        resources,
        ahead,
        queue,
    )
    corpora = {corpus.path for corpus in plan.sweep.corpora if corpus.path}
    too_large = ray.find_too_large(plan.todo)
    wanted = [cell.checkpoint for cell in plan.todo if cell.id not in too_large]
    ray.require_visible(corpora | {p for c in wanted for p in (c.path, c.tokenizer_path) if p})
    return ray
