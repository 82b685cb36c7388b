"""Command line of the check: run the parts in order, and write the result after each."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.gpu_check.parts import OPTIONAL, PARTS, PartResult, missing, run_part
from pipeline.cache import write_atomic

REQUIRED = ("torch", "numpy", "threadpoolctl")
JSON_NAME, PAGE_NAME = "gpu-check.json", "gpu-check.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse_arguments(arguments)
    if absent := missing(REQUIRED):
        return _refuse("gpu-check", f"not installed: {', '.join(absent)}", "Install the packages: pip install '.[gpu]'")
    from jobs.bench.machine import format_machine, machine  # imports torch

    if options.device == "cuda" and not _has_cuda():
        return _refuse(
            "gpu-check", "torch finds no CUDA device", "Run it on a GPU machine, or rehearse it here with --device cpu"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    about, absent = machine(options.device), missing(OPTIONAL)
    print(format_machine(about), flush=True)
    results: list[PartResult] = []
    for number, part in enumerate(PARTS, 1):
        print(f"{number}/{len(PARTS)} {part.name} (at most {part.limit_s:.0f} s)", flush=True)
        results.append(run_part(part, options.device, options.quick, options.out))
        print(f"    {results[-1].status} in {results[-1].seconds:.0f} s", flush=True)
        _write(options.out, about, absent, results)
    print(options.out / PAGE_NAME)
    return int(any(result.status in ("failed", "cut off") for result in results))


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m jobs.gpu_check", description="Check a GPU machine in eight minutes.")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"), metavar="DIR", help="output folder")
    parser.add_argument("--quick", action="store_true", help="small problem sizes only")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearsal without a GPU")
    return parser.parse_args(arguments)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _refuse(asked: str, found: str, do: str) -> int:
    print(f"error: {asked}: {found}.\n{do}.", file=sys.stderr)
    return 2


def _write(folder: Path, about: dict[str, Any], absent: list[str], results: Sequence[PartResult]) -> None:
    from jobs.gpu_check.page import format_page

    content = {**about, "not_installed": absent, "parts": [result._asdict() for result in results]}
    write_atomic(folder / JSON_NAME, f"{json.dumps(content, indent=1)}\n".encode())
    write_atomic(folder / PAGE_NAME, format_page(about, absent, results).encode())


if __name__ == "__main__":
    sys.exit(main())
