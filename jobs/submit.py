"""Submit a sweep to the job server of a Ray cluster, and show what it says until it ends.

Command: python -m jobs.submit SWEEP --cluster http://localhost:8265 --lake s3://BUCKET/lake
SWEEP is a YAML file or a module, as for `shapelake run`, whose other options may follow: --limit 3, --models '*-70m'.
It is read and checked here, and sent together with the package, so the nodes run the code of this checkout.
The cluster's token is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; needs the extra [cluster].
Ctrl-C here ends the showing, not the sweep. The line printed first stops it: tasks under way finish, and submitting the
same again does what is left. The same sweep is refused while it still runs.
Exit code: the sweep's own, 143 where it was stopped, 2 where it was never accepted.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import pipeline
from pipeline.errors import ShapelakeError, UsageError
from pipeline.spec import Sweep
from pipeline.strict_model import digest_json
from pipeline.sweep.config import apply_overrides, load_sweep

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_S = 2.0
SPARE_S = 30
"""Seconds between the end of a drain and the driver's being killed by Ray."""


def main(words: Sequence[str] | None = None) -> int:
    asked, options = _parsed(words)
    try:
        sweep = apply_overrides(load_sweep(asked.sweep), asked.set)
        client = connected(asked.cluster)
        job = submitted(client, sweep, asked.lake, options)
        print(f"{job} is submitted; stop it with: ray job stop --address {asked.cluster} {job}", flush=True)
        return 0 if asked.detach else followed(client, job)
    except ShapelakeError as error:
        print(f"error: {error}", file=sys.stderr)
    except (OSError, RuntimeError) as error:  # what Ray's client raises for an answer that is none
        found = str(error).strip().splitlines()[0]
        print(f"error: {UsageError(f'cluster {asked.cluster}', found, 'Check its address and token')}", file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    return 2


def connected(cluster: str) -> "JobSubmissionClient":
    """The job server of a cluster, spoken to with a token unless the user says that it wants none."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
    if find_spec("aiohttp") is None:
        raise UsageError("submitting", "the client of Ray's job server is not installed", "Install '.[cluster]'")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(cluster)
    except AuthenticationError as error:
        found = str(error).splitlines()[0]
        raise UsageError(f"cluster {cluster}", found, "Set RAY_AUTH_TOKEN to the cluster's token") from error


def submitted(client: "JobSubmissionClient", sweep: Sweep, lake: str, options: list[str]) -> str:
    """The name of the new job.

    Raises:
        UsageError: the same sweep is still running there.
    """
    fields = sweep.model_dump(mode="json", exclude_unset=True)
    uri = lake if "://" in lake else str(Path(lake).expanduser().resolve())
    name = f"{sweep.name}-{digest_json([fields, uri, options], bits=32)}"
    before = [job for job in client.list_jobs() if (job.submission_id or "").startswith(f"{name}-")]
    for job in before:
        if not job.status.is_terminal():
            raise UsageError(f"sweep {sweep.name}", f"it still runs, as {job.submission_id}", "Stop it, or wait")
    with _package(fields) as folder:
        return client.submit_job(
            entrypoint=_command(uri, options),
            submission_id=f"{name}-{len(before) + 1}",
            runtime_env={
                "working_dir": str(folder),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{sweep.resources.drain_s + SPARE_S:.0f}"},
            },
        )


def followed(client: "JobSubmissionClient", job: str) -> int:
    """Print what the job writes until it ends; its exit code."""
    shown = 0
    while True:
        now = client.get_job_info(job)
        said = client.get_job_logs(job)
        print(said[shown:], end="", flush=True)
        shown = len(said)
        if now.status.is_terminal():
            return {"SUCCEEDED": 0, "STOPPED": 143}.get(now.status.value, now.driver_exit_code or 1)
        time.sleep(POLL_S)


@contextmanager
def _package(fields: dict[str, Any]) -> Iterator[Path]:
    """A folder with the package and the sweep, and nothing else that lies in this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(pipeline.__file__).parent
        shutil.copytree(source, Path(folder) / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "sweep.yaml").write_text(yaml.safe_dump(fields))
        yield Path(folder)


def _command(lake: str, options: list[str]) -> str:
    """With exec, so that SIGTERM reaches the driver and not a shell."""
    return shlex.join(
        ["exec", "python", "-m", "pipeline", "run", "sweep.yaml", "--lake", lake, "--address", "auto", *options]
    )


def _parsed(words: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        "python -m jobs.submit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", metavar="SWEEP", help="a YAML file, or a module such as jobs.pythia")
    parser.add_argument("--cluster", required=True, metavar="URL", help="its job server: http://HOST:8265")
    parser.add_argument("--lake", required=True, metavar="URI", help="as the cluster's nodes see it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a field of the sweep")
    parser.add_argument("--detach", action="store_true", help="do not wait for its end")
    return parser.parse_known_args(words)


if __name__ == "__main__":
    sys.exit(main())
