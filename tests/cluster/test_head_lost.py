"""Head of a cluster killed during a run: the driver ends by itself, and a rerun elsewhere completes the sweep."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.chaos import stub_sweep
from tests.chaos.cluster import ROOT, STORE_BYTES
from tests.support import stub_checkpoints as stub

STEPS = 60
PATIENCE_S = 10
"""Ray's timeout in seconds for an unresponsive head; a minute by default."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_driver_without_its_head_ends_and_a_rerun_does_the_rest(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    root, lake = stub.history(tmp_path / "runs", list(range(STEPS))), Lake(tmp_path / "lake")
    (tmp_path / stub_sweep.RUNNING).mkdir()
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", str(PATIENCE_S))
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        monkeypatch.setenv("RAY_TMPDIR", folder)
        size = {"num_cpus": 2, "object_store_memory": STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        try:
            driver = _driver(root, lake, str(cluster.address))
            while len(lake.committed_cell_ids()) < STEPS // 4:
                assert driver.poll() is None, driver.communicate()
                time.sleep(0.05)
            cluster.head_node.kill_gcs_server()
            output, _ = driver.communicate(timeout=PATIENCE_S + 120)
        finally:
            cluster.shutdown()
    assert driver.returncode == 1, output
    committed = lake.committed_cell_ids()
    assert len(committed) < 2 * STEPS
    report = run(plan := make_plan(stub_sweep.sweep(root, "local"), lake), lake, "inline", stub_sweep.work)
    assert (report.exit_code, report.committed) == (0, 2 * STEPS - len(committed))
    assert lake.committed_cell_ids() == {cell.id for cell in plan.cells}


def _driver(root: Path, lake: Lake, address: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.driver_process", str(root), lake.uri, address],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
