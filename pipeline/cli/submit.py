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
        str, typer.Option("--cluster", metavar="URL", help="URL of the cluster's job server, such as http://HOST:8265.")
    ],
    lake: Annotated[
        str,
        typer.Option(
            "--lake",
            metavar="URI",
            envvar=LAKE_ENV,
            help="Lake: a path or URI that every node of the cluster can write to.",
        ),
    ],
    limit: LimitOption = None,
    steps: StepsOption = None,
    models: ModelsOption = None,
    set_: SetOption = None,
    retry_quarantined: RetryOption = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the job is accepted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a sweep to the job server of a Ray cluster, and print the driver's output until the job ends.

    The sweep is checked here and sent together with this package, so that the nodes run the same code. Ray's token is
    read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Requires the extra [cluster].

    Ctrl-C ends the output, not the job. The first line of the output has the command that stops the job. After it,
    running tasks finish, and another submission of the sweep runs the rest. A sweep is refused while an earlier job of
    it is still running.

    The exit code is that of the run, 143 if the job was stopped, or 2 if the job was not accepted.

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
