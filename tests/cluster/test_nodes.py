"""Two nodes with separate disks and one lake: tasks run where files were fetched; work of a lost node is repeated."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from pipeline.catalog import scratch
from pipeline.catalog.fetch import COMPLETE_MARKER, fetch_temporarily
from pipeline.catalog.fetch import scratch_folder as folder_of
from pipeline.lake import Lake
from pipeline.spec import Resources, Sweep
from pipeline.sweep.plan import Plan, make_plan
from pipeline.sweep.run import run
from pipeline.sweep.task import Outcome, Task
from pipeline.sweep.watchdog import mark_in_flight
from tests.hub.conftest import hub  # noqa: F401
from tests.support import stub_checkpoints as stub
from tests.support.fake_hub import FakeHub
from tests.support.ray_tasks import opened, tasks
from tests.support.stub_files import files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STEPS = 12
WEIGHTS = 1_000_000
BUDGET_GB = 0.0025
"""Scratch budget of a node: two checkpoints."""
TASK_S = 0.5


class Nodes(NamedTuple):
    """Ray cluster of a head without CPUs and two nodes with one CPU each, by scratch folder."""

    address: str
    cluster: Any
    by_scratch: dict[str, Any]
    cache: Path
    """Parent of the nodes' cache folders."""


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        monkeypatch.setenv("RAY_TMPDIR", folder)
        size = {"object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size})
        by_scratch = {}
        for name in ("one", "two"):
            disk = tmp_path / name
            disks = {"SHAPELAKE_SCRATCH": str(disk), "SHAPELAKE_CACHE": str(tmp_path / "caches" / name)}
            by_scratch[str(disk)] = cluster.add_node(num_cpus=1, env_vars=disks, **size)
        # require_listener opens a Python socket, which tests may do only to loopback; Ray listens on the host address.
        monkeypatch.setattr("pipeline.sweep.ray_cluster.require_listener", lambda address: None)
        yield Nodes(str(cluster.address), cluster, by_scratch, tmp_path / "caches")
        cluster.shutdown()


def planned(hub: FakeHub, nodes: Nodes, lake: Lake) -> Plan:  # noqa: F811
    repo = hub.repo("lab/small")
    for step in range(STEPS):
        repo.commit(files(f"{step:0{WEIGHTS}}"), branch=f"step{step}")
    sweep = Sweep.model_validate(
        {
            "name": "two-nodes",
            "checkpoints": [{"hub": "lab/small"}],
            "corpora": [{"random-uniform": {}}],
            "recipe": "quick@1",
            "resources": {"cpus": 1, "address": nodes.address, "scratch_gb": BUDGET_GB, "prefetch": 2},
        }
    )
    return make_plan(sweep, lake)


def work(task: Task) -> list[Outcome]:
    """Hold the checkpoint on this node's disk for TASK_S, commit stub rows, and record the state of the disk."""
    folder = folder_of(task.checkpoint, task.run_id)
    record = {"disk": os.environ["SHAPELAKE_SCRATCH"], "cell": task.cells[0].id, "began": time.time()}
    record |= {
        "was_here": (folder / COMPLETE_MARKER).exists(),
        "leased": sum(lease.bytes for lease in scratch.list_leases()),
    }
    path = Path(task.lake).parent / "records" / f"{record['began']}-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    with fetch_temporarily(task.checkpoint, task.run_id, task.resources.scratch_bytes) as checkpoint:
        path.write_text(json.dumps(record))
        assert (Path(checkpoint.path) / "model.safetensors").stat().st_size == WEIGHTS
        time.sleep(TASK_S)
        path.write_text(json.dumps(record | {"ended": time.time()}))
    return [stub.commit(task, cell) for cell in task.cells]


def read_records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text() or "{}") for path in sorted((tmp_path / "records").glob("*.json"))]


def test_what_a_node_fetched_it_measures_within_its_own_budget(hub, nodes, tmp_path):  # noqa: F811
    lake = Lake(tmp_path / "lake")
    report = run(planned(hub, nodes, lake), lake, "ray", work)
    assert (report.exit_code, report.committed) == (0, STEPS)
    records = read_records(tmp_path)
    assert all(record["was_here"] for record in records), "each task runs on the node that fetched its files"
    assert {record["disk"] for record in records} == set(nodes.by_scratch), "both nodes worked"
    bodies = [request for request in hub.requests if request.sent >= WEIGHTS]
    assert len(bodies) == STEPS, "nothing was fetched twice"
    budget = BUDGET_GB * 1e9
    assert max(record["leased"] for record in records) <= budget
    together = [a["leased"] + b["leased"] for a, b in combinations(records, 2) if at_once(a, b)]
    assert max(together) > budget, "the budget applies per node, not per cluster"
    left = [path for disk in nodes.by_scratch for path in Path(disk).rglob("*") if path.is_file()]
    assert [path for path in left if path.stat().st_size >= WEIGHTS] == []


def at_once(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return True if two tasks overlapped in time on different nodes."""
    return a["disk"] != b["disk"] and a["began"] < b["ended"] and b["began"] < a["ended"]


def test_what_a_lost_node_had_is_done_on_the_other(hub, nodes, tmp_path):  # noqa: F811
    lake, lost = Lake(tmp_path / "lake"), []

    def lose() -> None:
        """Kill a node that runs a task once three cells are committed."""
        while not lost:
            time.sleep(0.05)
            at_work = [record["disk"] for record in read_records(tmp_path) if record and "ended" not in record]
            if len(lake.committed_cell_ids()) >= 3 and at_work:
                lost.append(at_work[-1])
                nodes.cluster.remove_node(nodes.by_scratch[at_work[-1]], allow_graceful=False)

    plan = planned(hub, nodes, lake)
    Thread(target=lose, daemon=True).start()
    report = run(plan, lake, "ray", work)
    assert lost, "no node was lost"
    assert (report.exit_code, report.committed, report.failures) == (0, STEPS, {})
    assert lake.committed_cell_ids() == {cell.id for cell in plan.cells}
    assert not lake.quarantined_cell_ids()
    failures = lake.failure_counts()
    assert failures, "a task was in flight on the lost node"
    assert {tuple(classes) for classes in failures.values()} == {("preempted",)}, "not the cell's fault"
    assert read_records(tmp_path)[-1]["disk"] not in lost
    assert not list((tmp_path / "scratch").iterdir()), "the head measures nothing and so downloads nothing"


def test_a_run_that_is_stopped_leaves_nothing_on_any_node(hub, nodes, tmp_path):  # noqa: F811
    """Prefetched files are on the disks of other machines, whose budget the next run needs."""
    lake = Lake(tmp_path / "lake")

    def stop() -> None:
        while len(lake.committed_cell_ids()) < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    plan = planned(hub, nodes, lake)
    Thread(target=stop, daemon=True).start()
    report = run(plan, lake, "ray", work)
    assert (report.exit_code, report.failures) == (143, {})
    assert 3 <= report.committed < STEPS
    leases = [path for disk in nodes.by_scratch for path in Path(disk).glob(".*.lease")]
    assert leases == []
    assert run(make_plan(plan.sweep, lake), lake, "ray", work).exit_code == 0
    assert len(lake.committed_cell_ids()) == STEPS


def test_a_node_whose_disk_has_gone_costs_no_cell(hub, nodes, tmp_path):  # noqa: F811
    """A fetch that fails on one node is retried on the other."""
    lake, broken = Lake(tmp_path / "lake"), next(iter(nodes.by_scratch))
    Path(broken).write_text("a file in place of the folder")
    report = run(planned(hub, nodes, lake), lake, "ray", work)
    assert (report.exit_code, report.committed) == (0, STEPS)
    failures = lake.failure_counts()
    assert failures, "some fetches ran on the broken node"
    assert all(set(classes) == {"setup"} for classes in failures.values())
    assert {record["disk"] for record in read_records(tmp_path)} == set(nodes.by_scratch) - {broken}


def stuck_or_done(task: Task) -> list[Outcome]:
    """Hang in the task of step 0, without a watchdog that fires; return at once otherwise."""
    if task.checkpoint.step == 0:
        with mark_in_flight(task):
            time.sleep(60)
    return [Outcome(cell_id=cell.id, summary=os.environ["SHAPELAKE_SCRATCH"]) for cell in task.cells]


def outcome(backend: Any, task: Task) -> Outcome:
    backend.submit(task)
    while not (done := backend.wait(1.0)):
        pass
    ((_, (one,)),) = done
    return one


def test_what_is_given_to_a_node_that_has_just_gone_is_preempted_and_the_next_try_goes_to_the_other(nodes, monkeypatch):
    """Ray reports it as unschedulable: it counts as preempted, neither as a crash nor as a task that waits forever."""
    import ray

    resources = Resources(cpus=1, address=nodes.address)
    _, one, two = tasks(3, resources)
    with closing(opened(stuck_or_done, resources, ahead=1)) as backend:
        first = outcome(backend, one).summary
        monkeypatch.setattr("pipeline.sweep.nodes.REFRESH_INTERVAL_S", 1000.0)
        nodes.cluster.remove_node(nodes.by_scratch[first], allow_graceful=False)
        while sum(node["Alive"] for node in ray.nodes()) > 2:
            time.sleep(0.1)
        lost = outcome(backend, two)
        assert (lost.error_class, lost.message.split(":")[0]) == ("preempted", "TaskUnschedulableError")
        assert outcome(backend, two).summary == next(disk for disk in nodes.by_scratch if disk != first)


def test_the_driver_ends_a_task_on_another_node_whose_watchdog_does_not(nodes):
    resources = Resources(cpus=1, address=nodes.address, timeout_s=1)
    stuck, good = tasks(2, resources)
    with closing(opened(stuck_or_done, resources, ahead=1)) as backend:
        ended = outcome(backend, stuck)
        assert (ended.error_class, "1 s" in ended.message) == ("timeout", True), ended.message
        assert list(nodes.cache.glob("*/stacks/*")), "the stack dump is on the node's own disk"
        assert outcome(backend, good).ok, "the slot is free again"
