"""Command for clusters: submit."""

from contextlib import suppress
from typing import Annotated

import typer

from pipeline.cli.app import LAKE_ENV, JsonOption, app, print_json
from pipeline.cli.sweeps import (
    LimitOption,
    ModelsOption,
    RetryOption,
    SetOption,
    StepsOption,
    SweepArgument,
    apply_options,
)
from pipeline.sweep.config import load_sweep
from pipeline.terminal import print_line, print_text


@app.command()
def submit(
    sweep: SweepArgument,
    cluster: Annotated[
        str, typer.Option("--cluster", metavar="URL", help="Address of the cluster's job server: http://HOST:8265.")
    ],
    lake: Annotated[
        str,
        typer.Option("--lake", metavar="URI", envvar=LAKE_ENV, help="Lake, as a path or URI valid on every node."),
    ],
    limit: LimitOption = None,
    steps: StepsOption = None,
    models: ModelsOption = None,
    set_: SetOption = None,
    retry_quarantined: RetryOption = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the job is accepted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a sweep to the job server of a Ray cluster, and print the driver's output until the job ends.

    The sweep is checked here and sent together with this package, so that the nodes run the same code. Ray's token is
    read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Requires the extra [cluster].

    Ctrl-C ends the output, not the job. The first line printed is the command that stops the job: running tasks
    finish, and submitting again runs the rest. A sweep that is still running is refused.

    Exit code: the run's exit code, 143 if the job was stopped, 2 if the job was not accepted.

    Example: shapelake submit sweep.yaml --cluster http://localhost:8265 --lake s3://bucket/lake
    """
    from pipeline.sweep.ray_jobs import JobServer

    options = [*(["--limit", str(limit)] if limit else []), *(["--retry-quarantined"] if retry_quarantined else [])]
    checked = apply_options(load_sweep(sweep), steps, models, None, set_)
    server = JobServer(cluster)
    job = server.submit(checked, lake, options)
    stop = f"ray job stop --address {cluster} {job}"
    print_json({"job": job, "stop_command": stop}) if as_json else print_line(f"{job} submitted; to stop it: {stop}")
    if not detach:
        with suppress(KeyboardInterrupt):
            raise typer.Exit(server.follow(job, print_text))
