"""Checks of the rows of a file of similarity records, which readers then use without further checks."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

STATUSES = ("ok", "no_geometry")
"""`no_geometry`: a hidden state of the layer is not finite, all are equal, or there are fewer than 3. The columns with
the record of the layer are then null."""
SHARED = ("token_ids", "token_groups", "sinks")
ARRAYS = ("neighbours", "vectors", "values", "diagonal")
NUMBERS = ("trace", "sum_of_squares", "tail")


def find_rows_problem(table: pa.Table) -> str | None:
    """Describe the first defect of the rows of a file; None if there is none. The table may lack the column `ranks`."""
    rows = table.select(["layer", "status", *NUMBERS]).to_pylist()
    if not rows or len({row["layer"] for row in rows}) < len(rows):
        return "a layer has two rows" if rows else "no rows"
    if found := _find_token_problem(table):
        return found
    n = len(table.column("token_ids")[0])
    found = (next(_iter_problems(table, at, row, n), None) for at, row in enumerate(rows))
    return next((f"layer {row['layer']}: {what}" for row, what in zip(rows, found, strict=True) if what), None)


def find_size_problem(table: pa.Table, tokens: int, rank: int, neighbours: int, ranks: bool) -> str | None:
    """Describe how the rows differ from the size that the file's name states; None if they have this size.

    A cell may have fewer tokens than `tokens`; there are then fewer neighbours and vectors too.
    """
    n = len(table.column("token_ids")[0])
    if n > tokens:
        return f"{n} tokens, more than the {tokens} of its name"
    wanted = {"neighbours": n * min(neighbours, n - 1), "values": min(rank, n), "ranks": n * n if ranks else None}
    for at, status in enumerate(table.column("status").to_pylist()):
        for name, size in wanted.items():
            column = table.column(name)[at]
            if status == "ok" and (len(column) if column.is_valid else None) != size:
                return f"layer {table.column('layer')[at]}: the size of {name} is not that of its name"
    return None


def _find_token_problem(table: pa.Table) -> str | None:
    """Describe the defect of the columns SHARED, which must be equal in all layers; None if there is none."""
    for name in SHARED:
        column = table.column(name).combine_chunks()
        if column.null_count or column.values.null_count:
            return f"{name} is null"
        if len(column[0]) == 0:
            return "no compared tokens"
        if any(each != column[0] for each in column):
            return f"{name} differs between layers"
    if len({len(table.column(name)[0]) for name in SHARED}) > 1:
        return "its lists differ in their number of tokens"
    return "a group is negative" if min(table.column("token_groups")[0].as_py()) < 0 else None


def _iter_problems(table: pa.Table, at: int, row: Mapping[str, Any], n: int) -> Iterator[str]:
    """Yield the defects of row `at`, a layer with `n` compared tokens; each check relies on the checks before it."""
    if row["status"] not in STATUSES:
        yield f"status = {row['status']!r}"
    if row["status"] != "ok":
        return
    lists, vectors, values, diagonal = (_values(table, name, at) for name in ARRAYS)
    if not (len(lists) and len(vectors) and len(values)):
        yield "its neighbours, vectors or values are null or empty"
    elif len(lists) % n or len(vectors) != n * len(values) or len(diagonal) != n:
        yield "its lists or vectors do not match its number of tokens"
    elif lists.min() < 0 or lists.max() >= n or (lists.reshape(n, -1) == np.arange(n)[:, None]).any():
        yield "a neighbour is not another compared token"
    numbers = np.array([row[name] for name in NUMBERS], float)
    if not all(bool(np.isfinite(each).all()) for each in (vectors, values, diagonal, numbers)):
        yield "a number is not finite"
    if "ranks" in table.column_names and table.column("ranks")[at].is_valid:
        ranks = _values(table, "ranks", at)
        if len(ranks) != n * n or ranks.min() < 0 or ranks.max() >= n:
            yield "its ranks do not match its number of tokens"


def _values(table: pa.Table, name: str, at: int) -> np.ndarray[Any, Any]:
    """Return the list in row `at` of a column as an array; empty if the list or an element of it is null."""
    column = table.column(name)[at]
    if not column.is_valid or column.values.null_count:
        return np.empty(0)
    return column.values.to_numpy(zero_copy_only=False)
