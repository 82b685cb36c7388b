"""Tables and numbers for a terminal."""

import sys
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


def table(records: list[dict[str, Any]]) -> Table:
    table = Table(*records[0], box=None, header_style="bold")
    for record in records:
        table.add_row(*("" if value is None else cell(value) for value in record.values()))
    return table


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
