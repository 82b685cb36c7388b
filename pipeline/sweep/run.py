"""One execution of a sweep: plan, open a backend only if there is work, drive, report."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

from pipeline.lake import Lake
from pipeline.spec import Resources
from pipeline.sweep.backend import Backend, InlineBackend, Work
from pipeline.sweep.driver import Driver, Report
from pipeline.sweep.plan import Plan
from pipeline.sweep.progress import Progress
from pipeline.sweep.ray_auth import lock_local_ray

BackendName = Literal["ray", "inline"]


def run(plan: Plan, lake: Lake, backend: BackendName, work: Work | None = None) -> Report:
    """Measure what the plan still wants. `work` replaces the body of a task, for tests of scale."""
    lake.record_recipe(plan.sweep.recipe)
    lake.record_labels(plan.checkpoints)
    if not plan.todo:
        return Report(held=plan.held)
    for cell in plan.todo:
        lake.release(cell.id)
    run_id = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{uuid4().hex[:4]}"
    lake.write_plan(run_id, plan.to_json())
    with Progress(total=len(plan.todo)) as progress:
        progress.say(f"run {run_id}: {len(plan.todo)} cells, starting {backend}")
        with closing(_open(backend, plan, work)) as opened:
            return Driver(plan, lake, opened, run_id, progress).run()


def _open(name: BackendName, plan: Plan, work: Work | None) -> Backend:
    from pipeline.sweep.worker import watched
    from pipeline.sweep.worker import work as inline_work

    resources: Resources = plan.sweep.resources
    if name == "inline":
        return InlineBackend(work or inline_work)
    if resources.address == "local":
        lock_local_ray()
    from pipeline.sweep.ray_backend import RayBackend

    ray = RayBackend(work or watched, resources)
    ray.require_visible({c.path for c in plan.checkpoints} | {c.path for c in plan.sweep.corpora if c.path})
    return ray
