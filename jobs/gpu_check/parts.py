"""Parts of the check: each is a command in a child process, with the packages it needs and its share of the time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BENCH = "from jobs.bench.__main__ import main; main()"
TAIL_LINES = 12
"""Number of lines that are kept of a part's output, from its end."""
Status = Literal["passed", "failed", "cut off", "skipped"]


class Part(NamedTuple):
    name: str
    limit_s: float
    packages: tuple[str, ...]
    """Modules that the part needs; it is skipped if one of them is not installed."""
    groups: tuple[str, ...] = ()
    """Groups of `jobs.bench` that the part measures; empty for the part that runs the tests."""


PARTS = (
    Part("tests", 120, ("torch", "transformers", "pytest")),
    Part("decoder", 130, ("torch", "transformers", "jaxtyping"), ("checkpoint",)),
    Part("k-NN", 100, ("torch", "jaxtyping"), ("knn",)),
    Part("spectra", 40, ("torch", "jaxtyping"), ("spectrum",)),
    Part("kernels", 30, ("torch", "jaxtyping"), ("kernels",)),
    Part("FAISS", 60, ("torch", "jaxtyping", "faiss"), ("engines",)),
)
"""Parts in the order in which they run; their limits add up to eight minutes."""
OPTIONAL = ("faiss", "ray", "pyarrow", "polars", "duckdb", "sklearn", "skdim")
"""Modules that some tests or rows need; a test or row is skipped if its module is not installed."""


class PartResult(NamedTuple):
    name: str
    status: Status
    seconds: float
    summary: str
    """Last lines of the output, or the reason for skipping."""
    rows: list[dict[str, Any]]
    """Comparisons as `jobs.bench` writes them; a part that was cut off has those that it measured before."""


def missing(packages: Sequence[str]) -> list[str]:
    """Return the modules that are not installed."""
    return [name for name in packages if find_spec(name) is None]


def run_part(part: Part, device: str, quick: bool, folder: Path) -> PartResult:
    """Run a part in a child process, which is killed at the part's limit.

    A part is skipped if one of its modules is not installed, or if nothing in it runs on this device.
    """
    if absent := missing(part.packages):
        return PartResult(part.name, "skipped", 0.0, f"not installed: {', '.join(absent)}", [])
    written = folder / f"{part.name}.part.json"
    started = time.monotonic()
    status, output = _run(_command(part, device, quick, written), part.limit_s)
    rows = json.loads(written.read_text())["rows"] if written.exists() else []
    written.unlink(missing_ok=True)
    if status == "passed" and not (rows if part.groups else " passed" in output):
        status, output = "skipped", "nothing runs on this device"
    return PartResult(part.name, status, time.monotonic() - started, output, rows)


def _command(part: Part, device: str, quick: bool, written: Path) -> list[str]:
    if not part.groups:
        return [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", "tests/gpu"]
    options = ["--only", ",".join(part.groups), "--device", device, "--json", str(written)]
    return [sys.executable, "-c", BENCH, *options, *(["--quick"] if quick else [])]


def _run(command: list[str], limit_s: float) -> tuple[Status, str]:
    """Run a command in the repository; return its status and the last lines of its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return "cut off", _last_lines(f"{output}\nstopped after {limit_s:.0f} s")
    return ("passed" if done.returncode == 0 else "failed"), _last_lines(done.stdout)


def _last_lines(text: str) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][-TAIL_LINES:])
