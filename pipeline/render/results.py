"""The rows of a measurement, and the rows of a query."""

import csv as csv_format
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from pipeline.render.tables import console, format_number, format_with_error, make_rich_table

FINDING_COLUMNS = ("model", "kind", "stage", "run", "corpus", "recipe", "layer", "about", "verdict", "because")
"""Columns of a finding that a terminal shows; --json has the rest."""


def print_layers(measured: list[dict[str, Any]]) -> None:
    """The headline numbers of each layer, with their standard errors."""
    shown = Table(box=None, header_style="bold")
    for name in ("layer", "state", "anisotropy", "no sink", "id_twonn", "id_mle", "id_authors", "points", "flags"):
        shown.add_column(name, justify="left" if name in ("state", "flags") else "right")
    for row in measured:
        shown.add_row(
            str(row["layer"]),
            row["state"],
            format_with_error(row, "anisotropy", 4),
            format_with_error(row, "anisotropy_no_sink", 4),
            format_with_error(row, "id_twonn", 2),
            format_with_error(row, "id_mle", 2),
            format_number(row["id_authors"], 2),
            str(row["n_points"]),
            " ".join(row["flags"]),
        )
    console().print(shown)
    first = measured[0]
    if first["loss"] is not None:
        console().print(f"loss {format_with_error(first, 'loss', 4)} nats per token on {first['loss_tokens']} tokens")


def print_query_result(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A query's rows as a table."""
    console().print(make_rich_table(columns, rows))


def print_findings(questions: dict[str, str], frames: dict[str, Any]) -> None:
    """Each question, and per history the verdict and the sentence behind it."""
    out = console()
    for name, frame in frames.items():
        out.print(f"\n{name}: {questions[name]}", markup=False)
        said = [column for column in frame.columns if column in FINDING_COLUMNS]
        print_query_result(said, frame.select(said).rows()) if len(frame) else out.print(
            "  nothing to judge in this lake"
        )


def print_problems(found: list[dict[str, Any]], n_cells: int) -> None:
    """What is wrong with a lake."""
    for problem in found:
        console().print(f"{problem['key']}: {problem['found']}", markup=False)
    console().print(f"{n_cells} cells, {len(found)} problems")


def print_checks(found: list[dict[str, Any]]) -> None:
    """A line per check, and what to do about it."""
    for check in found:
        do = f" {check['do']}." if check["do"] else ""
        console().print(f"{check['state']:<8}{check['name']:<9}{check['found']}.{do}", markup=False)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv_format.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def print_json_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
