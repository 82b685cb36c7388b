"""Exact check of the rows of one cell, with a message per defect."""

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.columns import FLAGS, METRIC_GROUPS, all_columns, column_names, column_range
from pipeline.lake.schema import REQUIRED_COLUMNS, arrow_schema, unexplained_nulls
from pipeline.spec import Checkpoint

ALLOWED_WORDS = {"state": {"embedding", "block", "final_norm"}, "status": {"ok", "degenerate", "nonfinite"}}
COMPARED_COLUMNS = column_names("layer", *METRIC_GROUPS)


def find_table_problems(table: pa.Table, cell_id: str, model_key: str) -> Iterator[str]:
    """Yield the problems in the rows of one cell."""
    if len({*table.column_names}) < table.num_columns:
        yield "two columns have the same name"
        return
    types = {field.name: field.type for field in arrow_schema()}
    odd = [f"{field.name} is {field.type}" for field in table.schema if types.get(field.name, field.type) != field.type]
    if odd or table.num_rows == 0:
        yield f"wrong column types: {', '.join(odd)}" if odd else "no rows"
        return
    rows = table.select(sorted({*types} & {*table.column_names})).to_pylist()
    if (ids := {row.get("cell_id") for row in rows}) != {cell_id}:
        yield f"its rows belong to cell {_join_first(ids)}"
    if (models := {model_key_of(row.get("model")) for row in rows}) != {model_key}:
        yield f"its rows belong to model {_join_first(models)}"
    if len({row.get("layer") for row in rows}) < len(rows):
        yield "a layer has two rows"
    for row in rows:
        yield from (f"layer {row.get('layer')}: {found}" for found in _row_problems(row))


def find_flag_problems(row: dict[str, Any]) -> Iterator[str]:
    """Yield unknown flags, and the metrics of a row that are null although no flag explains it."""
    flags = row.get("flags") or []
    yield from (f"unknown flag {flag!r}" for flag in flags if flag is None or flag.partition(":")[0] not in FLAGS)
    known = {"depth": row.get("depth"), "flags": [flag for flag in flags if flag is not None]}
    if unexplained := unexplained_nulls({**row, **known}):
        yield f"null without a word in flags that explains it: {', '.join(unexplained)}"


def have_equal_numbers(a: pa.Table, b: pa.Table) -> bool:
    """Return True if the layers and metrics that both tables have are equal."""
    try:
        shared = [name for name in COMPARED_COLUMNS if name in a.column_names and name in b.column_names]
        return a.select(shared).equals(b.select(shared))
    except KeyError:  # two columns have the same name
        return False


def model_key_of(model: Any) -> str | None:
    """Return the partition key of a model name; None if `model` is not a string."""
    return Checkpoint.model_construct(model=model).model_key if isinstance(model, str) else None


def _row_problems(row: dict[str, Any]) -> Iterator[str]:
    if absent := [name for name in REQUIRED_COLUMNS if name in row and row[name] is None]:
        yield f"null in required columns: {', '.join(absent)}"
        return
    for column in all_columns():
        bounds = column_range(column)
        for value in _numbers(row.get(column.name)):
            if not math.isfinite(value) or (bounds and not bounds.low <= value <= bounds.high):
                yield f"{column.name} = {value}"
    yield from (f"{n} = {row[n]!r}" for n, known in ALLOWED_WORDS.items() if n in row and row[n] not in known)
    yield from find_flag_problems(row)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _join_first(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values))[:3])
