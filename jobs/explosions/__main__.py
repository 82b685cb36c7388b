"""Command line of the study: train the missing runs, evaluate the detectors, print the tables."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.bench.machine import format_machine, machine
from jobs.explosions import table
from jobs.explosions.traces import read_trace, record, runs
from pipeline.cli import run_command

SHARES = (0.1, 0.25)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse_arguments(arguments)
    wanted = runs(options.seeds, options.first)
    record(wanted, options.out, options.workers)
    traces = {run: read_trace(run, options.out) for run in wanted}
    text = "\n".join(_report(traces, options))
    print(text)
    if options.table:
        options.table.write_text(text + "\n")


def _report(traces: table.Traces, options: argparse.Namespace) -> Iterator[str]:
    command = f"python -m jobs.explosions --seeds {options.seeds} --first {options.first}"
    yield f"`{command}`; {format_machine(machine('cpu'))}."
    yield ""
    for disturbed, name in ((True, "disturbed"), (False, "calm")):
        seeds = [run.seed for run in traces if run.is_induced == disturbed]
        yield f"- {name}: {len(seeds)} runs, every other seed of {min(seeds)} to {max(seeds)}"
    yield from table.about(traces)
    for share in SHARES:
        yield f"\nThresholds at which at most {share:.0%} of the calm training runs raise an alarm:\n"
        yield from table.markdown(traces, share)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m jobs.explosions", description="Which number warns of an explosion?")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the traces")
    parser.add_argument("--seeds", type=int, default=8, help="runs per disturbance")
    parser.add_argument(
        "--first", type=int, default=0, help="rounds of seeds to skip; a round has one run per disturbance"
    )
    parser.add_argument("--workers", type=int, default=2, help="number of single-threaded processes")
    parser.add_argument("--table", type=Path, metavar="FILE", help="output file for the tables")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
