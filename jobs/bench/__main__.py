"""Command line of the benchmark: choose groups of rows, print each row when it is measured, write all rows as JSON."""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import torch

from jobs.bench import peers, table
from jobs.bench.comparison import Comparison
from jobs.bench.machine import format_machine, machine
from jobs.bench.scale import Scale, scale
from pipeline.cache import write_atomic
from pipeline.geometry import set_threads

GROUPS: dict[str, tuple[str, ...]] = {
    "knn": ("knn",),
    "engines": ("engines",),
    "spectrum": ("spectrum",),
    "kernels": ("kernels",),
    "layer": ("layer",),
    "checkpoint": ("checkpoint",),
    "sampling": ("sampling",),
    "similarity": ("similarity",),
    "sweep": ("sweep",),
    "lake": ("lake",),
    "training": ("training",),
}
"""Modules of each group of rows; each has a function `rows`.

They are imported on demand, since a GPU machine may lack the packages that the lake needs.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse_arguments(arguments)
    set_threads(torch.get_num_threads())
    about = machine(options.device)
    print(f"{format_machine(about)}\n\n{table.head()}", flush=True)
    absent = peers.absent()
    written = {**about, "device": options.device, "quick": options.quick, "absent": absent, "rows": []}
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, SHAPELAKE_CACHE=cache):
        for row in measure_groups(options.only, scale(options.device, options.quick), options.device):
            print(table.line(row), flush=True)
            written["rows"].append(row.to_json())
            if options.json:  # after each row, so that a run that is cut off leaves what it measured
                write_atomic(options.json, f"{json.dumps(written, indent=1)}\n".encode())
    if absent:
        print(f"\nnot measured because not installed (run make bench): {', '.join(absent)}")


def measure_groups(names: Sequence[str], sizes: Scale, device: str) -> Iterator[Comparison]:
    """Yield each row of these groups as soon as it is measured."""
    for name in names:
        for module in GROUPS[name]:
            yield from import_module(f"jobs.bench.{module}").rows(sizes, device)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m jobs.bench", description="Benchmark this project against its peers.")
    names = list(GROUPS)
    parser.add_argument("--only", type=_parse_groups, default=names, metavar=",".join(names), help="groups of rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="output file for all measurements")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda selects GPU problem sizes")
    parser.add_argument("--quick", action="store_true", help="small problem sizes only")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; omit the option or run on a GPU machine")
    return options


def _parse_groups(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"no group {name!r}; choose from {', '.join(GROUPS)}")
    return names


if __name__ == "__main__":
    from pipeline.cli import run_command  # needs packages that a bare GPU machine lacks; `jobs.gpu_check` calls main

    run_command(main)
