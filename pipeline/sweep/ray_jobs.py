"""Client of the job server of a Ray cluster: submit a sweep as a job and follow its output."""

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import pipeline
from pipeline.errors import UsageError
from pipeline.spec import Sweep
from pipeline.strict_model import digest_json

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_S = 2.0
DRAIN_MARGIN_S = 30
"""Seconds that Ray waits after `drain_s` have passed, before it kills the driver of a job that was stopped."""


class JobServer:
    """Connection to a job server, authenticated with Ray's token unless RAY_AUTH_MODE says otherwise.

    Raises:
        UsageError: the client is not installed, the server does not answer, or it refuses the token. Every method may
            raise UsageError for the last two reasons.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = self._connect()

    def submit(self, sweep: Sweep, lake: str, options: list[str]) -> str:
        """Submit the sweep with this package's code, and return the name of the new job.

        Raises:
            UsageError: an earlier job of the same sweep, lake and options is still running.
        """
        fields = sweep.model_dump(mode="json", exclude_unset=True)
        uri = lake if "://" in lake else str(Path(lake).expanduser().resolve())
        name = f"{sweep.name}-{digest_json([fields, uri, options], bits=32)}"
        jobs = self._request(self._client.list_jobs)
        earlier = [job for job in jobs if (job.submission_id or "").startswith(f"{name}-")]
        for job in earlier:
            if not job.status.is_terminal():
                do = f"Wait for its end, or run ray job stop --address {self._address} {job.submission_id}"
                raise UsageError(f"submit sweep {sweep.name}", f"job {job.submission_id} is still running", do)
        with _working_folder(fields) as folder:
            environment = {"RAY_JOB_STOP_WAIT_TIME_S": f"{sweep.resources.drain_s + DRAIN_MARGIN_S:.0f}"}
            return self._request(
                self._client.submit_job,
                entrypoint=_command(uri, options),
                submission_id=f"{name}-{len(earlier) + 1}",
                runtime_env={"working_dir": str(folder), "env_vars": environment},
            )

    def follow(self, job: str, write: Callable[[str], object]) -> int:
        """Pass the job's output to `write` until the job ends; return the driver's exit code, 143 for a stopped job."""
        written = 0
        while True:
            info = self._request(self._client.get_job_info, job)
            output = self._request(self._client.get_job_logs, job)
            write(output[written:])
            written = len(output)
            if info.status.is_terminal():
                return {"SUCCEEDED": 0, "STOPPED": 143}.get(info.status.value, info.driver_exit_code or 1)
            time.sleep(POLL_S)

    def _connect(self) -> "JobSubmissionClient":
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
        if find_spec("aiohttp") is None:
            found = "the client of Ray's job server is not installed"
            raise UsageError(f"submit to {self._address}", found, "Run pip install '.[cluster]'")
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        try:
            return self._request(JobSubmissionClient, self._address)
        except AuthenticationError as error:
            do = "Set RAY_AUTH_TOKEN to the cluster's token"
            raise UsageError(f"cluster {self._address}", _first_line(error), do) from error

    def _request(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except (OSError, RuntimeError) as error:  # Ray's client raises them for a missing or unexpected response
            do = "Check that the job server runs at this address and accepts this token"
            raise UsageError(f"cluster {self._address}", _first_line(error), do) from error


@contextmanager
def _working_folder(fields: dict[str, Any]) -> Iterator[Path]:
    """Make a temporary folder that holds only this package and the sweep; Ray uploads all of it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(pipeline.__file__).parent
        shutil.copytree(source, Path(folder) / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "sweep.yaml").write_text(yaml.safe_dump(fields))
        yield Path(folder)


def _command(lake: str, options: list[str]) -> str:
    """Return the job's shell command; exec makes SIGTERM reach the driver instead of the shell."""
    return shlex.join(
        ["exec", "python", "-m", "pipeline", "run", "sweep.yaml", "--lake", lake, "--address", "auto", *options]
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
