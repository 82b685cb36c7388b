"""Command line: parse options, call the package, print; one module per subject, registered by being imported.

Settings that change a result are in recipes, not options.
"""

import os
import signal
import sys
from types import FrameType

from pipeline.cli import catalog, exports, maintenance, queries, submit, sweeps, watch  # noqa: F401  register commands
from pipeline.cli.app import app
from pipeline.cli.left_out_files import exit_1_for_left_out_files
from pipeline.errors import CorpusError, ShapelakeError, UsageError
from pipeline.terminal import print_text


def run_job_module() -> None:
    """Run the main module as a job: `python -m jobs.X ...` is `shapelake run jobs.X ...`."""
    module = sys.modules["__main__"]
    assert module.__spec__ is not None, "run the module as python -m jobs.X"
    if {"-h", "--help"} & set(sys.argv):
        print_text(f"{module.__doc__}\n")
    sys.argv[1:] = ["run", module.__spec__.name, *sys.argv[1:]]
    main()


def main() -> None:
    """Entry point of the console script."""
    # torch and FAISS each have a thread pool; idle threads that spin would take cores from the other pool.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _exit_on_signal)
    with exit_1_for_left_out_files():
        _run_app()


def _run_app() -> None:
    try:
        app()
    except ShapelakeError as error:
        print_text(f"error: {error}\n", err=True)
        sys.exit(2 if isinstance(error, UsageError | CorpusError) else 1)
    except BrokenPipeError:  # the reader of standard output has exited: `shapelake query ... | head`
        sys.stderr.close()


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    """Exit with the shell's code for the signal, closing open resources; a run replaces this handler by a drain."""
    sys.exit(128 + number)
