"""Command line: commands parse their options, call the package and print the result.

Each subject has a module, which registers its commands. Settings that change a result are fields of recipes, not
options.
"""

import io
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import Any

import typer

from pipeline.cli import catalog, comparisons, exports, maintenance, queries, submit, sweeps, watch  # noqa: F401  register commands
from pipeline.cli.app import DEBUG_OPTION, LOG_ENV, LOG_OPTION, app
from pipeline.cli.left_out_files import exit_1_for_left_out_files
from pipeline.errors import CorpusError, ShapelakeError, UsageError
from pipeline.strict_model import suggest
from pipeline.terminal import LOG_FORMATS, log_line, print_text, set_log_format


def run_job_module() -> None:
    """Run the main module as a job: `python -m jobs.X ...` does the same as `shapelake run jobs.X ...`."""
    module = sys.modules["__main__"]
    assert module.__spec__ is not None, "run the module as python -m jobs.X"
    name = module.__spec__.name
    if {"-h", "--help"} & set(sys.argv):
        print_text(f"{module.__doc__}\n")
    command: Any = typer.main.get_command(app)
    run = command.commands["run"]
    run.params = [param for param in run.params if param.name != "sweep"]
    run.callback, run.help = partial(run.callback, sweep=name), run.help.partition("\n\n")[0]
    _run(partial(run, prog_name=f"python -m {name}"))


def main() -> None:
    """Entry point of the console script."""
    _run(app)


def hide_tracebacks() -> None:
    """Make an error of a script print two lines instead of a traceback, like an error of a command."""

    def report(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        if isinstance(error, Exception):
            _log_error(error if isinstance(error, ShapelakeError) else _describe(error))
        else:
            print_text(f"{kind.__name__}\n", err=True)

    sys.excepthook = report


def _run(command: Callable[[], object]) -> None:
    # torch and FAISS each have a thread pool; idle threads that spin would take cores from the other pool.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _exit_on_signal)
    _replace_unprintable()
    with exit_1_for_left_out_files():
        run_command(command)


def _replace_unprintable() -> None:
    """Print `?` for characters that the terminal's encoding lacks, instead of failing after the work is done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def run_command(command: Callable[[], object]) -> None:
    """Run a command; an error is printed in two lines, with a traceback only if the command line has `--debug`."""
    debug = DEBUG_OPTION in sys.argv
    sys.argv = [word for word in sys.argv if word != DEBUG_OPTION]
    try:
        set_log_format(_take_log_format())
        command()
    except ShapelakeError as error:
        if debug:
            traceback.print_exc()
        _log_error(error)
        sys.exit(2 if isinstance(error, UsageError | CorpusError) else 1)
    except BrokenPipeError:  # the reader of standard output has exited: `shapelake query ... | head`
        sys.stderr.close()
    except Exception as error:  # the machine (disk, memory, permissions) or a defect of this code
        if debug:
            raise
        _log_error(_describe(error))
        sys.exit(1)


def _log_error(error: ShapelakeError) -> None:
    log_line(f"error: {error}", "error", asked=error.asked, found=error.found, do=error.do)


def _take_log_format() -> str:
    """Remove `--log FORMAT` from the command line, and return the format.

    Without `--log`, the format is that of the environment variable LOG_ENV or, if it is not set, `text`.

    Raises:
        UsageError: there is no such format.
    """
    chosen = os.environ.get(LOG_ENV) or LOG_FORMATS[0]
    for index, word in enumerate(sys.argv):
        if word.split("=")[0] == LOG_OPTION:
            own = word.partition("=")[2] if "=" in word else "".join(sys.argv[index + 1 : index + 2])
            chosen, sys.argv = own, sys.argv[:index] + sys.argv[index + (1 if "=" in word else 2) :]
            break
    if chosen not in LOG_FORMATS:
        near = suggest(chosen, [*LOG_FORMATS])
        raise UsageError(f"{LOG_OPTION} {chosen}", f"no such log format{near}", f"Write {LOG_OPTION} json")
    return chosen


def _describe(error: Exception) -> ShapelakeError:
    """Return an error with the next step for the user; unless it comes from the operating system, it is a defect."""
    asked = shlex.join(sys.argv[1:]) or "this command"
    if isinstance(error, OSError) and error.strerror:
        paths = " and ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
        do = f"Check the path, its permissions and free space; for details add {DEBUG_OPTION}"
        return ShapelakeError(paths or asked, error.strerror, do)
    do = f"This is a defect of shapelake: run it again with {DEBUG_OPTION} and report the output"
    return ShapelakeError(asked, f"{type(error).__name__}: {error}", do)


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    """Close open resources, and exit with the code that a shell reports for the signal.

    A run of a sweep replaces this handler by one that lets running tasks finish.
    """
    sys.exit(128 + number)
