"""The command line: parse, call, print. Science is in recipes, not in flags."""

import os
import signal
import sys
from types import FrameType

import typer

from pipeline.cli import catalog, exports, maintenance, queries, sweeps, watch  # noqa: F401  each adds its commands
from pipeline.cli.app import app
from pipeline.errors import CorpusError, ShapelakeError, UsageError


def run_job_module() -> None:
    """Make a module of `jobs` a program: `python -m jobs.X ...` is `shapelake run jobs.X ...`."""
    module = sys.modules["__main__"]
    assert module.__spec__ is not None, "run it as python -m jobs.X"
    if {"-h", "--help"} & set(sys.argv):
        typer.echo(f"{module.__doc__}")
    sys.argv[1:] = ["run", module.__spec__.name, *sys.argv[1:]]
    main()


def main() -> None:
    """The console script."""
    # torch and FAISS bring a pool of threads each; one that spins while the other works takes its cores away.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        app()
    except ShapelakeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError | CorpusError) else 1)
    except BrokenPipeError:  # the reader of our output has left: `shapelake query ... | head`
        sys.stderr.close()


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    """What is open is closed, and the exit code is the shell's for the signal; a run's driver drains instead."""
    sys.exit(128 + number)
