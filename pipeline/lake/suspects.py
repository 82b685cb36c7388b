"""Vectorised check of many cells, which selects the few files that need the exact check.

The exact check, `pipeline.lake.verify_rows`, names the defect of a file. Each expression here covers one of its rules.
A suspect may prove to be intact; a file that is not a suspect has no defect in its rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import polars as pl
import pyarrow.parquet as pq

from pipeline.columns import METRIC_GROUPS, Column, all_columns, column_names, column_range
from pipeline.lake.scan import PARQUET_READ_ERRORS, scan_unchecked
from pipeline.lake.schema import REQUIRED_COLUMNS
from pipeline.lake.verify_rows import ALLOWED_WORDS, find_flag_problems, model_key_of

NEEDED_COLUMNS = {"cell_id", "model", "layer", "depth", "flags"}
"""Columns that the vectorised check needs; a file that lacks one gets the exact check."""


class OpenedCell(NamedTuple):
    """Cell file whose footer can be read."""

    key: str
    cell_id: str
    model_key: str
    data: bytes
    schema: pq.ParquetSchema
    """Schema; one object is shared by all files with equal schemas."""
    n_rows: int


def find_suspects(cells: Iterable[OpenedCell]) -> set[str]:
    """Return the keys of the files whose rows may have a problem."""
    groups: dict[int, list[OpenedCell]] = {}
    for cell in cells:
        groups.setdefault(id(cell.schema), []).append(cell)
    return set[str]().union(*map(_suspects_of_schema, groups.values()))


def _suspects_of_schema(cells: list[OpenedCell]) -> set[str]:
    schema = cells[0].schema
    names = {schema.column(i).path.split(".")[0] for i in range(len(schema))}
    if not names >= NEEDED_COLUMNS:
        return {cell.key for cell in cells}
    empty = {cell.key for cell in cells if not cell.n_rows}
    return empty | _suspects([cell for cell in cells if cell.n_rows], names)


def _suspects(cells: Sequence[OpenedCell], names: set[str]) -> set[str]:
    """Return the keys of the suspects among these files, which have the columns `names`.

    If the files cannot be read together, they are bisected until the unreadable ones are found, which are suspects too.
    """
    if not cells:
        return set()
    try:
        rows = scan_unchecked([cell.data for cell in cells]).select(c for c in column_names() if c in names).collect()
    except PARQUET_READ_ERRORS:
        rows = pl.DataFrame()
    if rows.height == sum(cell.n_rows for cell in cells):
        return _suspicious_keys(_with_expectations(rows, cells), names)
    middle = len(cells) // 2
    return _suspects(cells[:middle], names) | _suspects(cells[middle:], names) if middle else {cells[0].key}


def _with_expectations(rows: pl.DataFrame, cells: Sequence[OpenedCell]) -> pl.DataFrame:
    """Add to each row the key of its file, and the cell id and model key that the key contains."""
    files = pl.DataFrame(
        {
            "_key": [cell.key for cell in cells],
            "_cell_id": [cell.cell_id for cell in cells],
            "_model_key": [cell.model_key for cell in cells],
            "_n": [cell.n_rows for cell in cells],
        }
    )
    return rows.hstack(files.select(pl.exclude("_n").repeat_by("_n").explode()))


def _suspicious_keys(rows: pl.DataFrame, names: set[str]) -> set[str]:
    odd = pl.any_horizontal(*_identity_rules(rows), *_value_rules(names))
    return {*rows.filter(odd)["_key"], *_keys_with_flag_problems(rows, names)}


def _identity_rules(rows: pl.DataFrame) -> Iterator[pl.Expr]:
    keys = {model: model_key_of(model) for model in rows["model"].unique()}
    model_key = pl.col("model").replace_strict(keys, return_dtype=pl.String)
    yield pl.col("cell_id").ne_missing(pl.col("_cell_id"))
    yield model_key.ne_missing(pl.col("_model_key"))
    yield pl.struct("_key", "layer").is_duplicated()


def _value_rules(names: set[str]) -> Iterator[pl.Expr]:
    yield from (pl.col(name).is_null() for name in REQUIRED_COLUMNS if name in names)
    yield from (~pl.col(name).is_in(known) for name, known in ALLOWED_WORDS.items() if name in names)
    for column in all_columns():
        if column.name in names and ("int" in column.type or "float" in column.type):
            is_list = column.type.startswith("list<")
            odd = _is_odd(pl.element() if is_list else pl.col(column.name), column)
            yield (pl.col(column.name).list.eval(odd).list.any() if is_list else odd).fill_null(value=False)


def _is_odd(value: pl.Expr, column: Column) -> pl.Expr:
    value = value.cast(pl.Float64)  # some lower bounds are not representable in float32
    bounds = column_range(column)
    odd = ~value.is_finite()
    return odd | ~value.is_between(bounds.low, bounds.high) if bounds else odd


def _keys_with_flag_problems(rows: pl.DataFrame, names: set[str]) -> set[str]:
    """Return the keys of files with a row whose flags do not explain its nulls, or are unknown.

    Each distinct pattern of flags and nulls is checked once, because a lake has few patterns.
    """
    metrics = [name for name in column_names(*METRIC_GROUPS) if name in names]
    nulls = [pl.col(name).is_null() for name in metrics]
    patterns = rows.select("_key", "flags", pl.col("depth") == 1, *nulls).group_by("flags", "depth", *metrics)
    suspicious: set[str] = set()
    for keys, flags, is_last, *is_null in (
        patterns.agg(pl.col("_key").unique()).select("_key", pl.exclude("_key")).rows()
    ):
        row = {name: None if null else 0.0 for name, null in zip(metrics, is_null, strict=True)}
        if any(find_flag_problems({**row, "flags": flags, "depth": float(bool(is_last))})):
            suspicious |= {*keys}
    return suspicious
