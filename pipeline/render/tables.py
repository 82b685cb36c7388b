"""Tables and number formats for a terminal."""

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.terminal import escape_control, escape_lines, print_line

NON_TTY_WIDTH = 200
PADDING = 2
"""Spaces around each column of a table."""
MIN_WRAPPED_WIDTH, MIN_WRAPPED_WIDTHS = 24, {"because": 60}
"""Smallest width, in characters, to which the text of a column is wrapped: the default, and that of named columns."""


class PlainConsole(Console):
    """Console that shows every string as it is: no markup, no emoji codes, control characters escaped.

    In files and pipes it is wide, so that tables are not cut.
    """

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else NON_TTY_WIDTH
        super().__init__(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich text. rich calls this method for every string, also in table cells."""
        return super().render_str(escape_lines(text), **options)


def print_table(table: Table) -> None:
    PlainConsole().print(table)


def format_bytes(n_bytes: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if n_bytes >= u), (1e3, "kB"))
    return f"{n_bytes / unit:.3g} {name}"


def print_rows(columns: Iterable[str], rows: Iterable[Iterable[Any]], right: Collection[str] = ()) -> None:
    """Print a table, or one field per line if a table would cut a value. Only text with spaces is wrapped.

    Args:
        right: columns that are aligned to the right.
    """
    names = list(map(escape_control, columns))
    cells = [["" if value is None else format_value(value) for value in row] for row in rows]
    widths = [_min_width(*column) for column in zip(names, *cells, strict=True)]
    if sum(widths) + PADDING * len(names) > PlainConsole().width:
        _print_fields(names, cells)
        return
    table = Table(box=None, header_style="bold")
    for name, width in zip(names, widths, strict=True):
        table.add_column(name, "", min_width=width, overflow="fold", justify="right" if name in right else "left")
    for row in cells:
        table.add_row(*row)
    print_table(table)


def _min_width(name: str, *cells: str) -> int:
    """Return the width of the narrowest column that shows these cells; text with spaces can be wrapped."""
    width = max(map(cell_len, (name, *cells)))
    if not any(" " in cell for cell in cells):
        return width
    return max(cell_len(name), min(width, MIN_WRAPPED_WIDTHS.get(name, MIN_WRAPPED_WIDTH)))


def print_records(records: Sequence[dict[str, Any]]) -> None:
    """Print a table of one or more records, which all have the same keys."""
    print_rows(records[0], [list(record.values()) for record in records])


def _print_fields(names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    width = max(map(len, names))
    for number, row in enumerate(cells, 1):
        print_line(f"row {number} of {len(cells)}")
        for name, cell in zip(names, row, strict=True):
            print_line(f"  {name:<{width}}  {cell}".rstrip())


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
