"""`shapelake submit` against a real job server: refused without the token; submitted, stopped, submitted again."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.lake import Lake, lake_status
from tests.infra.files import ROOT
from tests.support import four_task_driver
from tests.support import stub_checkpoints as stub
from tests.support import tiny_checkpoints as tiny
from tests.support.ray_head import Head, head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("aiohttp"), reason="needs the extra [cluster]: make test-slow"),
]
STEPS = list(range(8))
Submit = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head(cpus=four_task_driver.SLOTS) as started:
        yield started


@pytest.fixture
def submit(cluster: Head, tmp_path: Path) -> Submit:
    """Start `shapelake submit` of a history of real checkpoints, in a separate process."""
    tiny.history(tmp_path / "runs", STEPS)
    tiny.text(tmp_path / "prose.txt")
    recipe = tiny.RECIPE | {"contexts": 400, "groups": 5}
    sweep = f"name: tiny\ncheckpoints: [{{local: runs}}]\ncorpora: [random-uniform]\nrecipe: {recipe}\n"
    (tmp_path / "sweep.yaml").write_text(f"{sweep}resources: {{cpus: 4, slots: 1, drain_s: 60}}\n")

    def submitting(*words: str, **environment: str) -> "subprocess.Popen[str]":
        arguments = [tmp_path / "sweep.yaml", "--cluster", cluster.dashboard, "--lake", tmp_path / "lake", *words]
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", "submit", *map(str, arguments)],
            cwd=ROOT,
            env=cluster.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return submitting


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wrong", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}], ids=["none", "wrong"])
def test_without_the_token_nothing_is_accepted(submit, tmp_path, wrong):
    code, out, err = ended(submit(**wrong))
    assert (code, out) == (2, "")
    assert "token" in err.lower()
    assert len(err.strip().splitlines()) == 2, err
    assert not (tmp_path / "lake").exists()


@pytest.mark.timeout(900)
def test_a_sweep_is_watched_stopped_and_finished(cluster, submit, tmp_path):
    lake = Lake(tmp_path / "lake")
    first = submit()
    assert first.stdout
    line = first.stdout.readline()
    assert "ray job stop" in line, ended(first)
    job = line.split()[0]
    while len(lake.committed_cell_ids()) < 2:
        assert first.poll() is None, ended(first)
        time.sleep(0.1)
    code, out, err = ended(submit("--detach"))
    assert (code, job in err) == (2, True), (out, err)
    stop(cluster, job)
    code, out, err = ended(first)
    assert code == 143, out + err
    assert "stopping: running tasks finish" in out
    committed = lake.committed_cell_ids()
    assert 2 <= len(committed) < len(STEPS)
    run = lake_status(lake)["runs"][0]
    assert (run["committed"], run["ended"]) == (len(committed), True), "the driver drained and was not killed"

    code, out, err = ended(submit())
    assert code == 0, out + err
    assert f"{len(STEPS) - len(committed)} to run" in out, out
    assert len(lake.committed_cell_ids()) == len(STEPS)
    assert committed < lake.committed_cell_ids()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("n", [4, 8], ids=["nothing-left", "four-left"])
def test_a_stop_lets_four_tasks_of_three_seconds_finish_and_begins_no_other(cluster, tmp_path, n):
    from ray.job_submission import JobSubmissionClient

    root, lake = stub.history(tmp_path / "runs", list(range(n))), Lake(tmp_path / "lake")
    client = JobSubmissionClient(cluster.dashboard, headers={"Authorization": f"Bearer {cluster.token}"})
    job = client.submit_job(
        entrypoint=f"exec {sys.executable} -m tests.support.four_task_driver {root} {lake.uri} auto",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "RAY_JOB_STOP_WAIT_TIME_S": "60"}},
    )
    while len(four_task_driver.begun(root)) < four_task_driver.SLOTS:
        assert not client.get_job_status(job).is_terminal(), client.get_job_logs(job)
        time.sleep(0.05)
    stopped = time.monotonic()
    client.stop_job(job)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.05)
    took_s = time.monotonic() - stopped
    print(f"{took_s:.1f} s from the stop to the end of {n} tasks, {four_task_driver.SLOTS} of them begun")
    assert took_s < four_task_driver.DRAINED_S * four_task_driver.crowded()
    assert len(lake.committed_cell_ids()) == len(four_task_driver.begun(root)) == four_task_driver.SLOTS, (
        client.get_job_logs(job)
    )
    run = lake_status(lake)["runs"][0]
    assert (run["committed"], run["to_run"], run["ended"]) == (four_task_driver.SLOTS, n, True)


def stop(cluster: Head, job: str) -> None:
    """Stop a job from the command line, without waiting for its end."""
    words = ["job", "stop", "--no-wait", "--address", cluster.dashboard, job]
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words], env=cluster.environment, check=True)
