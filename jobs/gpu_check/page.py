"""Markdown page of the check: parts, headline figures, and the benchmark's table."""

from collections.abc import Sequence
from typing import Any

from jobs.bench.checkpoint import BARE, FLOOR
from jobs.bench.comparison import Comparison
from jobs.bench.machine import format_machine
from jobs.bench.table import head, line
from jobs.gpu_check.parts import PartResult


def format_page(about: dict[str, Any], absent: Sequence[str], results: Sequence[PartResult]) -> str:
    rows = [row for result in results for row in result.rows]
    lines = [f"# Benchmark: {about['gpu'] or about['processor']}", "", "`make gpu-check`. " + _EXPLAINED, ""]
    lines += [format_machine(about), ""]
    if absent:
        lines += [f"Not installed: {', '.join(absent)}.", ""]
    lines += ["| part | status | seconds |", "|---|---|---|"]
    lines += [f"| {result.name} | {_status(result)} | {result.seconds:.0f} |" for result in results]
    lines += ["", *_headlines(rows)]
    lines += ["", head(), *(line(Comparison.from_json(row)) for row in rows), ""]
    for result in results:
        if result.status in ("failed", "cut off") or result.name == "tests":
            lines += [f"Output of {result.name}:", "", "```", result.summary, "```", ""]
    return "\n".join(lines)


_EXPLAINED = "[The CPU page](2026-11-27-epyc-2core.md) explains the columns and the floors."


def _status(result: PartResult) -> str:
    return f"skipped ({result.summary})" if result.status == "skipped" else result.status


def _headlines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines of headline figures: tokens/s, cost of the metrics, utilisation, and the targets met and missed.

    A figure whose row of the benchmark does not exist is left out.
    """
    by_reference = {row["reference"]: row for row in rows if row["group"] == "measure"}
    found = []
    if full := by_reference.get(BARE):
        found += [
            f"- With all metrics: {full['n'] / full['ours']:,.0f} tokens/s; bare forward pass: "
            f"{full['n'] / full['theirs']:,.0f} tokens/s; metrics and capture: {full['ratio'] - 1:.0%} on top.",
        ]
    if bare := by_reference.get(FLOOR):
        found += [f"- Model FLOP/s utilisation of the bare pass: {1 / bare['ratio']:.0%} of the measured product rate."]
    short = [row for row in rows if row["verdict"] == "falls short"]
    met = sum(row["verdict"] == "pass" for row in rows)
    found += [f"- Targets: {met} met, {len(short)} missed."]
    found += [f"  - {row['work']}, N = {row['n']:,}: {row['ratio']:.3g}, target {row['target']}." for row in short]
    return found
