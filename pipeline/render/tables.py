"""Tables and numbers for a terminal."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH_OF_A_PIPE = 200


def console() -> Console:
    """Standard output; wide where nobody sees it, so that tables in files and pipes are not cut."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE, highlight=False, soft_wrap=True)


def size(n_bytes: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if n_bytes >= u), (1e3, "kB"))
    return f"{n_bytes / unit:.3g} {name}"


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if value is None else cell(value) for value in row))
    return table


def of_records(records: list[dict[str, Any]]) -> Table:
    """The table of records with equal keys, of which there is at least one."""
    return table(records[0], (record.values() for record in records))


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return str(value)


def with_error(row: dict[str, Any], name: str, digits: int) -> str:
    error = row[f"{name}_se"]
    return number(row[name], digits) + (f" ± {error:.{digits}f}" if error is not None else "")


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
