"""Loss of Ray itself during a run: no failure is counted, the run says so, and a rerun does the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.support import stub_checkpoints as stub

pytestmark = pytest.mark.slow

STEPS = 120
DRIVER = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
from pipeline import render
from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.support import stub_checkpoints as stub

def work(task):
    time.sleep(0.3)
    return stub.work(task)

def kill(name, lake):
    while len(lake.cell_files()) < 40:
        time.sleep(0.05)
    for line in subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]:
        pid, parent, command = (line + " -").split(None, 2)
        if int(parent) == os.getpid() and command.split()[0].endswith("/" + name):
            os.kill(int(pid), signal.SIGKILL)

lake = Lake(sys.argv[2])
plan = make_plan(stub.sweep(Path(sys.argv[1]), cpus=2, slots=2), lake)
threading.Thread(target=kill, args=(sys.argv[3], lake), daemon=True).start()
report = run(plan, lake, "ray", work)
render.print_run_report(report, plan, lake.uri)
sys.exit(report.exit_code)
"""


@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_dead_process_of_ray_is_no_fault_of_any_checkpoint(tmp_path: Path, process):
    root, uri, script = stub.history(tmp_path / "runs", list(range(STEPS))), str(tmp_path / "lake"), tmp_path / "run.py"
    script.write_text(DRIVER)
    words = [sys.executable, str(script), str(root), uri, process]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=110, check=False, env=environment)
    lake = Lake(uri)
    assert done.returncode == 1, done.stderr
    assert "STOPPED" in done.stdout
    assert "run again" in done.stdout or "run the sweep again" in done.stdout.lower()
    assert "Traceback" not in done.stdout + done.stderr
    assert (lake.failure_counts(), lake.quarantined_cell_ids()) == ({}, set())
    assert 40 <= len(lake.cell_files()) < STEPS
    report = run(make_plan(stub.sweep(root), lake), lake, "inline", stub.work)
    assert report.exit_code == 0
    assert len(lake.cell_files()) == STEPS
