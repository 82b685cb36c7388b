"""SLURM script with stubs: `ray`, `srun`, `scontrol` and the driver are scripts that log their arguments."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.infra.files import ROOT

STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$STAGE/log"
touch "$STAGE/$(basename "$0").called"
"""
DRIVER = """echo "token ${#RAY_AUTH_TOKEN} $RAY_AUTH_MODE" >> "$STAGE/log"
trap 'echo drained >> "$STAGE/log"; [ -e "$STAGE/slow" ] || exit "${CODE:-143}"' TERM
touch "$STAGE/driver.ready"
for _ in $(seq 100); do [ -e "$STAGE/done" ] && exit "${CODE:-0}"; sleep 0.1; done
exit 1
"""


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Checkout whose .venv/bin holds the stubs."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("ray", "srun", "scontrol", "python"):
        path = programs / name
        path.write_text(STUB + (DRIVER if name == "python" else ""))
        path.chmod(0o755)
    return tmp_path


def started(stage: Path, **environment: str) -> "subprocess.Popen[str]":
    given = {
        "STAGE": str(stage),
        "SHAPELAKE_LAKE": "/lake",
        "SHAPELAKE_GPU_GB": "80",
        "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "3",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "32",
        **environment,
    }
    words = ["bash", str(ROOT / "infra" / "slurm.sbatch"), "jobs.pythia", "--steps", "log2"]
    return subprocess.Popen(words, cwd=stage, env=os.environ | given, text=True, stderr=subprocess.PIPE)


def wait_for(path: Path) -> None:
    wait_until(path.exists, path.name)


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def read_log(stage: Path) -> list[str]:
    return (stage / "log").read_text().splitlines()


def test_a_sweep_runs_on_all_nodes_with_a_token(stage):
    job = started(stage)
    wait_for(stage / "srun.called")
    (stage / "done").touch()
    assert job.wait(20) == 0
    lines = {line.split()[0]: line for line in read_log(stage)}
    assert lines["ray"].startswith("ray start --head --node-ip-address=")
    assert "--port=20007 " in lines["ray"]
    assert "--nodes=2 --ntasks=2 --relative=1 ray start --address=" in lines["srun"]
    assert " -m pipeline run jobs.pythia --lake /lake --address " in lines["python"]
    settings = ("gpus=1", "gpu_gb=80", "cpus=8", "drain_s=300")
    assert f"{' '.join(f'--set resources.{setting}' for setting in settings)} --steps log2" in lines["python"]
    assert lines["token"] == "token 64 token"


@pytest.mark.parametrize(
    ("number", "restarts", "requeued"),
    [(signal.SIGUSR1, "0", True), (signal.SIGUSR1, "20", False), (signal.SIGTERM, "0", False)],
    ids=["limit", "too many requeues", "cancelled"],
)
def test_a_signal_drains_the_driver_and_only_the_limit_requeues_the_job(stage, number, restarts, requeued):
    job = started(stage, SLURM_RESTART_COUNT=restarts)
    wait_for(stage / "driver.ready")
    job.send_signal(number)
    assert job.wait(20) == 143
    assert "drained" in read_log(stage)
    assert ("scontrol requeue 7" in read_log(stage)) == requeued


@pytest.mark.parametrize(("code", "requeued"), [("143", True), ("1", False), ("0", False)])
def test_at_the_limit_the_job_is_requeued_only_if_work_is_left(stage, code, requeued):
    job = started(stage, CODE=code)
    wait_for(stage / "driver.ready")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == int(code)
    assert ("scontrol requeue 7" in read_log(stage)) == requeued


@pytest.mark.parametrize("code", ["0", "1", "143"])
def test_without_a_signal_the_job_ends_with_the_code_of_the_driver(stage, code):
    job = started(stage, CODE=code)
    (stage / "done").touch()
    assert job.wait(20) == int(code)
    assert "scontrol requeue 7" not in read_log(stage)


def test_a_stop_is_not_requeued_when_the_limit_comes_during_its_drain(stage):
    (stage / "slow").touch()
    job = started(stage, CODE="143")
    wait_for(stage / "driver.ready")
    for number, drains in ((signal.SIGTERM, 1), (signal.SIGUSR1, 2)):
        job.send_signal(number)
        wait_until(lambda drains=drains: read_log(stage).count("drained") == drains, "drain")
    (stage / "done").touch()
    assert job.wait(20) == 143
    assert "scontrol requeue 7" not in read_log(stage)


@pytest.mark.parametrize("absent", ["SHAPELAKE_LAKE", "SHAPELAKE_GPU_GB", "SLURM_GPUS_ON_NODE"])
def test_without_a_required_variable_nothing_starts(stage, absent):
    job = started(stage, **{absent: ""})
    _, error = job.communicate(timeout=20)
    assert job.returncode != 0
    assert absent in error
    assert not (stage / "log").exists()
