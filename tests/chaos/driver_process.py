"""Driver of a chaos run as a separate process: real plan, real run, real exit code."""

import sys
from pathlib import Path

from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.chaos import stub_sweep


def main(root: str, lake: str, address: str) -> int:
    plan = make_plan(stub_sweep.sweep(Path(root), address), Lake(lake))
    return run(plan, Lake(lake), "ray", stub_sweep.work).exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
