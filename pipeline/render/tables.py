"""Tables and number formats for a terminal."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.terminal import escape_control, escape_lines

NON_TTY_WIDTH = 200


class PlainConsole(Console):
    """Console that shows every string as it is: no markup, no emoji codes, control characters escaped.

    In files and pipes it is wide, so that tables are not cut.
    """

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else NON_TTY_WIDTH
        super().__init__(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string, also one in a table cell; rich calls it for all of them."""
        return super().render_str(escape_lines(text), **options)


def print_table(table: Table) -> None:
    PlainConsole().print(table)


def format_bytes(n_bytes: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if n_bytes >= u), (1e3, "kB"))
    return f"{n_bytes / unit:.3g} {name}"


def make_rich_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    table = Table(*map(escape_control, columns), box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if value is None else format_value(value) for value in row))
    return table


def table_from_records(records: list[dict[str, Any]]) -> Table:
    """Build a table from one or more records with equal keys."""
    return make_rich_table(records[0], (record.values() for record in records))


def format_value(value: Any) -> str:
    """Format a value for a table cell, on one line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return escape_control(str(value))


def format_with_error(row: dict[str, Any], name: str, digits: int) -> str:
    value, error = row[name], row.get(f"{name}_se")
    shown = "-" if value is None else f"{value:.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"
