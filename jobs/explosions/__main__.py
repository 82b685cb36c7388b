"""The command line: train what is missing, judge, print."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.bench.machine import in_a_line, machine
from jobs.explosions import table
from jobs.explosions.traces import record, recorded, runs

SHARES = (0.1, 0.25)


def main(words: Sequence[str] | None = None) -> None:
    asked = _parsed(words)
    wanted = runs(asked.seeds, asked.first)
    record(wanted, asked.out, asked.workers)
    traces = {run: recorded(run, asked.out) for run in wanted}
    text = "\n".join(_report(traces, asked))
    print(text)
    if asked.table:
        asked.table.write_text(text + "\n")


def _report(traces: table.Traces, asked: argparse.Namespace) -> Iterator[str]:
    yield f"`python -m jobs.explosions --seeds {asked.seeds} --first {asked.first}`; {in_a_line(machine('cpu'))}."
    yield ""
    for disturbed, name in ((True, "disturbed"), (False, "calm")):
        seeds = [run.seed for run in traces if run.is_induced == disturbed]
        yield f"- {name}: {len(seeds)} runs, every other seed of {min(seeds)} to {max(seeds)}"
    yield from table.about(traces)
    for share in SHARES:
        yield f"\nThresholds at which at most {share:.0%} of the calm training runs alarm:\n"
        yield from table.markdown(traces, share)


def _parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m jobs.explosions", description="Which number warns of an explosion?")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the traces are kept")
    parser.add_argument("--seeds", type=int, default=8, help="runs of each way to explode")
    parser.add_argument("--first", type=int, default=0, help="rounds of seeds to pass over")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--table", type=Path, metavar="FILE", help="where to write the tables")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
