"""Terminal output of results: measurements, queries, problems of a lake, checks, the catalogue and audits."""

import csv as csv_format
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.columns import FLAGS
from pipeline.render.tables import format_bytes, format_with_error, print_records, print_rows
from pipeline.terminal import escape_control, print_line

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a text that spreadsheets evaluate when they open a CSV file."""
LAYER_DIGITS = {"anisotropy": 4, "anisotropy_no_sink": 4, "id_twonn": 2, "id_mle": 2, "id_authors": 2}
"""Decimals of the metrics in the table of layers."""


def print_layers(measured: list[dict[str, Any]]) -> None:
    """Print the headline numbers of each layer with their standard errors, the meaning of each flag, and the loss."""
    columns = ("layer", "state", "anisotropy", "no sink", "id_twonn", "id_mle", "id_authors", "points", "flags")
    rows = [
        (row["layer"], row["state"], *metrics, row["n_points"], " ".join(row["flags"]))
        for row in measured
        for metrics in [[format_with_error(row, name, digits) for name, digits in LAYER_DIGITS.items()]]
    ]
    print_rows(columns, rows, right={*columns} - {"state", "flags"})
    if any(row.get(f"{name}_se") is not None for row in measured for name in LAYER_DIGITS):
        print_line("± one standard error over the groups of contexts")
    for flag in dict.fromkeys(flag for row in measured for flag in row["flags"]):
        if meaning := FLAGS.get(flag.partition(":")[0]):
            print_line(f"{flag}: {meaning.meaning}")
    first = measured[0]
    if first["loss"] is not None:
        print_line(f"loss {format_with_error(first, 'loss', 4)} nats per token on {first['loss_tokens']} tokens")


def print_query_result(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print_rows(columns, rows)


def print_problems(found: list[dict[str, Any]], n_cells: int) -> None:
    for problem in found:
        print_line(f"{problem['key']}: {problem['found']}")
    print_line(f"{n_cells} cells, {len(found)} problems")


def print_checks(found: list[dict[str, Any]]) -> None:
    """Print one line per check, with its remedy."""
    for check in found:
        do = f" {check['do']}." if check["do"] else ""
        print_line(f"{check['state']:<8}{check['name']:<9}{check['found']}.{do}")


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print CSV. A text like a formula gets a leading single quote; on a terminal, control characters are escaped."""
    writer = csv_format.writer(sys.stdout, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow(map(_csv_value, row))


def _csv_value(value: Any) -> Any:
    """Prefix text that a spreadsheet would evaluate as a formula with a single quote."""
    if not isinstance(value, str):
        return value
    text = escape_control(value) if sys.stdout.isatty() else value
    return f"'{text}" if value.startswith(FORMULA_STARTS) else text


def print_json_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))


def print_catalog(lines: list[dict[str, Any]]) -> None:
    """Print families, models or checkpoints; columns that are empty in every line are omitted."""
    columns = [name for name in lines[0] if any(line[name] not in (None, "", False) for line in lines)]
    shown = [{name: _format_field(name, line[name]) for name in columns if name != "rule"} for line in lines]
    print_records(shown)
    if any(line.get("rule") == "generic" for line in lines):
        print_line("not in the catalogue: revision names are read by the general rule")


def print_audits(histories: list[dict[str, Any]]) -> None:
    """Print per model the number of revisions in each state, then the problems, worst first."""
    for history in histories:
        counts = Counter(revision["state"] for revision in history["revisions"])
        states = " | ".join(f"{state} {count}" for state, count in counts.items())
        print_line(f"{history['model']}: {len(history['revisions'])} revisions ({states})")
        for finding in history["findings"]:
            print_line(f"  {finding['severity']:<8}{finding['says']}")
        if not history["findings"]:
            print_line("  no problems in the file listings; weights were not read")


def _format_field(name: str, value: Any) -> Any:
    if name == "commit":
        return value and value[:8]
    if name == "bytes":
        return value and format_bytes(value)
    if name in ("step", "tokens"):
        return None if value is None else f"{value:,}"
    return ("yes" if value else None) if isinstance(value, bool) else value
