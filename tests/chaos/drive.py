"""The driver under attack, as a process of its own: the real plan, the real run, the real exit code."""

import sys
from pathlib import Path

from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.chaos import victims


def main(root: str, lake: str, address: str) -> int:
    plan = make_plan(victims.sweep(Path(root), address), Lake(lake))
    return run(plan, Lake(lake), "ray", victims.work).exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
