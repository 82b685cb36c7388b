"""The command line: choose groups of rows, print each row as it is measured, write all of them as JSON."""

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
from jobs.bench.machine import in_a_line, machine
from jobs.bench.scale import Scale, scale
from pipeline.geometry import set_threads
from pipeline.strict_model import suggest

GROUPS: dict[str, tuple[str, ...]] = {
    "knn": ("knn",),
    "spectrum": ("spectrum",),
    "kernels": ("kernels",),
    "measure": ("layer", "checkpoint", "sampling"),
    "sweep": ("sweep",),
    "lake": ("lake",),
    "training": ("training",),
}
"""Modules with `rows`, imported when asked for: where there is a GPU, the packages of a lake may be absent."""


def main(words: Sequence[str] | None = None) -> None:
    asked = _parsed(words)
    set_threads(torch.get_num_threads())
    about = machine(asked.device)
    print(f"{in_a_line(about)}\n\n{table.head()}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, SHAPELAKE_CACHE=cache):
        for row in measured(asked.only, scale(asked.device, asked.quick), asked.device):
            rows.append(row)
            print(table.line(row), flush=True)
    if absent := peers.absent():
        print(f"\nnot measured, because not installed (make bench does): {', '.join(absent)}")
    if asked.json:
        whole = {**about, "device": asked.device, "quick": asked.quick, "absent": absent}
        asked.json.write_text(json.dumps({**whole, "rows": [row.to_json() for row in rows]}, indent=1) + "\n")


def measured(names: Sequence[str], sizes: Scale, device: str) -> Iterator[Comparison]:
    """Every row of these groups, as soon as it is known."""
    for name in names:
        for module in GROUPS[name]:
            yield from import_module(f"jobs.bench.{module}").rows(sizes, device)


def _parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m jobs.bench", description="This project and its peers, side by side.")
    parser.add_argument("--only", type=_groups, default=list(GROUPS), metavar=",".join(GROUPS), help="groups of rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything that was measured")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the sizes of a GPU")
    parser.add_argument("--quick", action="store_true", help="leave out what is large")
    asked = parser.parse_args(words)
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; leave it out, or run where there is one")
    return asked


def _groups(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"no group {name!r}{suggest(name, list(GROUPS))}")
    return names


if __name__ == "__main__":
    main()
