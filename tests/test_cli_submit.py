"""`shapelake submit` with a stub of Ray's job client; tests/cluster/test_job.py submits to a real job server."""

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipeline.sweep import ray_jobs
from tests.support import stub_checkpoints as stub
from tests.support import tiny_checkpoints as tiny

URL = "http://localhost:8265"


def status(value: str) -> SimpleNamespace:
    return SimpleNamespace(value=value, is_terminal=lambda: value != "RUNNING")


class JobClient:
    """Job server in memory whose next job runs for one poll and ends as `end` states."""

    def __init__(self) -> None:
        self.jobs: list[SimpleNamespace] = []
        self.end = ("SUCCEEDED", 0)
        self.sweep: dict = {}
        self.files: set[str] = set()

    def list_jobs(self):
        return self.jobs

    def submit_job(self, entrypoint, submission_id, runtime_env):
        folder = Path(runtime_env["working_dir"])
        self.files = {path.name for path in folder.iterdir()}
        self.sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
        job = SimpleNamespace(submission_id=submission_id, status=status("RUNNING"), entrypoint=entrypoint)
        self.jobs.append(job)
        self._polls = [("RUNNING", None, "one\n"), (*self.end, "one\ntwo\n")]
        return submission_id

    def get_job_info(self, name):
        value, code, self._output = self._polls.pop(0)
        self.jobs[-1].status = status(value)
        return SimpleNamespace(status=status(value), driver_exit_code=code)

    def get_job_logs(self, name):
        return self._output


@pytest.fixture
def client(monkeypatch):
    pytest.importorskip("ray")
    stubbed = JobClient()
    monkeypatch.setattr(ray_jobs, "find_spec", lambda name: name)
    monkeypatch.setattr(ray_jobs, "POLL_S", 0.0)
    monkeypatch.setitem(sys.modules, "ray.job_submission", SimpleNamespace(JobSubmissionClient=lambda url: stubbed))
    return stubbed


@pytest.fixture
def submit(shapelake, tmp_path):
    sweep = tiny.sweep_file(tmp_path, stub.history(tmp_path / "runs", [0, 1]))
    return lambda *words: shapelake("submit", sweep, "--cluster", URL, "--lake", "s3://bucket/lake", *words)


def test_a_job_runs_this_package_and_its_output_is_printed_once(client, submit, tmp_path):
    code, out, _ = submit("--limit", 3, "--steps", "last", "--set", "resources.cpus=2")
    (job,) = client.jobs
    first, *output = out.splitlines()
    assert (code, output) == (0, ["one", "two"])
    assert first.endswith(f"ray job stop --address {URL} {job.submission_id}")
    assert client.files == {"pipeline", "sweep.yaml"}
    assert (client.sweep["steps"], client.sweep["resources"]["cpus"]) == ("last", 2)
    assert client.sweep["corpora"][0]["path"] == str(tmp_path / "prose.txt"), "paths are absolute"
    words = ["run", "sweep.yaml", "--lake", "s3://bucket/lake", "--address", "auto", "--limit", "3"]
    assert shlex.split(job.entrypoint) == ["exec", "python", "-m", "pipeline", *words]


@pytest.mark.parametrize(("end", "code"), [(("STOPPED", None), 143), (("FAILED", 1), 1), (("FAILED", None), 1)])
def test_the_exit_code_is_that_of_the_run(client, submit, end, code):
    client.end = end
    assert submit()[0] == code


def test_a_sweep_that_is_running_is_refused_and_one_that_has_ended_is_submitted_again(client, submit):
    assert submit("--detach")[0] == 0
    code, _, err = submit()
    assert (code, len(err.splitlines()), client.jobs[0].submission_id in err) == (2, 2, True)
    assert submit("--limit", 1)[0] == 0, "other options are another job"
    client.jobs[0].status = status("STOPPED")
    assert submit("--detach")[0] == 0
    names = [job.submission_id for job in client.jobs]
    assert (names[0][-2:], names[2]) == ("-1", f"{names[0][:-2]}-2")


def test_a_server_that_does_not_answer_is_said_in_two_lines(client, submit, monkeypatch):
    def refuse():
        raise ConnectionError("connection refused\nand a stack")

    monkeypatch.setattr(client, "list_jobs", refuse)
    code, out, err = submit()
    assert (code, out, len(err.splitlines())) == (2, "", 2)
    assert URL in err
    assert "connection refused" in err


def test_a_client_that_is_not_installed_is_said_in_two_lines(submit, monkeypatch):
    monkeypatch.setattr(ray_jobs, "find_spec", lambda name: None)
    code, _, err = submit()
    assert (code, len(err.splitlines()), "[cluster]" in err) == (2, 2, True)
