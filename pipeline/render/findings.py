"""Terminal output of findings: one line per history and text, or all rows with full sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from pipeline.render.tables import print_rows
from pipeline.terminal import escape_control, print_line

FINDING_COLUMNS = ("model", "kind", "stage", "run", "corpus", "recipe", "layer", "about", "verdict", "because")
"""Columns of a finding that a terminal shows; --json has all of them."""


def print_briefs(questions: Mapping[str, str], briefs: Mapping[str, Any]) -> None:
    """Print each finding: its question, the meaning of its effect, and one line per history and text.

    Histories without a line are only counted.
    """
    for name, brief in briefs.items():
        print_line()
        print_line(f"{name}: {questions[name]}")
        if brief.lines:
            print_line(f"  effect ({100 * brief.level:g} % interval): {brief.measure}")
            if brief.claim:
                print_line(f"  claim: {brief.claim}")
            by_layer = any(line.layer is not None for line in brief.lines)
            print_aligned([_brief_cells(line, by_layer) for line in brief.lines])
        _print_left_out(name, brief.left_out)
        if not brief.lines and not brief.left_out:
            print_line("  no data for this finding in the lake")


def _print_left_out(name: str, left_out: Mapping[str, int]) -> None:
    """Print how many histories have no line, because nothing is in doubt or because they have no verdict."""
    if sound := left_out.get("sound"):
        print_line(f"  nothing in doubt: {sound} histories")
    if reasons := ", ".join(f"{reason} {count}" for reason, count in left_out.items() if reason != "sound"):
        print_line(f"  without a verdict: {reasons} (in full: shapelake findings {name} --all)")


def _brief_cells(line: Any, by_layer: bool) -> list[str]:
    layer = "" if not by_layer else "model" if line.layer is None else f"layer {line.layer}"
    return [escape_control(cell) for cell in line._replace(layer=layer)]


def print_aligned(rows: Sequence[Sequence[str]]) -> None:
    """Print one line per row with aligned columns. A column that is empty in all rows is omitted; no text is cut."""
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(cell_len, column)) for column in columns]
    for cells in zip(*columns, strict=True):
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        print_line(f"  {'  '.join(padded)}".rstrip())


def print_findings(questions: dict[str, str], frames: dict[str, Any]) -> None:
    """Print the question of each finding, and all of its rows with the columns FINDING_COLUMNS."""
    for name, frame in frames.items():
        print_line()
        print_line(f"{name}: {questions[name]}")
        columns = [column for column in frame.columns if column in FINDING_COLUMNS]
        if len(frame):
            print_rows(columns, frame.select(columns).rows())
        else:
            print_line("  no data for this finding in the lake")
