"""Arrow schema of the rows: the contract of columns.csv, enforced before a file is written."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from numbers import Integral
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import columns
from pipeline.columns import METRIC_GROUPS, Column, all_columns, column_names, explained_columns, is_null_by_definition
from pipeline.lake import checksum

SCHEMA_VERSION = 1
REQUIRED_COLUMNS = (
    *("cell_id", "recipe", "recipe_fingerprint", "algorithm", "model", "kind", "revision"),
    *("weights_digest", "config_digest", "tokenizer_digest", "corpus", "layer", "depth", "state", "status"),
)
SMALL_FILE_OPTIONS: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
"""Parquet options that leave out dictionaries, statistics and a second schema: in a file of about a dozen rows, these
would be most of the size."""


@cache
def arrow_schema() -> pa.Schema:
    """Return the schema of all columns.

    The metadata of a column has its unit and meaning, and the metadata of the schema has constants.
    """
    constant = {"schema_version": str(SCHEMA_VERSION), "mu_probabilities": json.dumps(columns.MU_PROBABILITIES)}
    return pa.schema([_field(column) for column in all_columns()], metadata=constant)


def to_table(rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]) -> pa.Table:
    """Build the table of one cell with the full schema.

    Args:
        rows: one per layer, by column name; missing columns become null. `schema_version` and, if missing,
            `written_at` are filled in.
        metadata: the file's key-value metadata (resolved recipe, versions).

    Raises:
        ValueError: an unknown column, null in a required column, NaN or infinity, a value outside its type, or a null
            metric that no word in `flags` explains. Each is a programming error of the caller.
    """
    if not rows:
        raise ValueError("the cell has no rows")
    stamp = {"written_at": datetime.now(UTC)}
    complete_rows = [_complete(stamp | dict(row)) for row in rows]
    layers = [row["layer"] for row in complete_rows]
    arrays = [_array(column, [row[column.name] for row in complete_rows], layers) for column in all_columns()]
    table = pa.Table.from_arrays(arrays, schema=arrow_schema())
    return table.replace_schema_metadata({**(arrow_schema().metadata or {}), **metadata})


def encode_parquet(table: pa.Table) -> bytes:
    """Encode the table as one Parquet file with a checksum, and verify that it reads back equal."""
    if not table.schema.equals(arrow_schema()):
        raise ValueError("the table is not from to_table: its schema differs from the lake's")
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", **SMALL_FILE_OPTIONS) as writer:
        writer.add_key_value_metadata({**table.schema.metadata, checksum.KEY: checksum.BLANK})
        writer.write_table(table)
    data = checksum.fill_checksum(sink.getvalue().to_pybytes())
    if not pq.read_table(pa.BufferReader(data)).equals(table):
        raise ValueError("the Parquet file does not read back as it was written")
    return data


def unexplained_nulls(row: Mapping[str, Any]) -> list[str]:
    """Return the metrics in the row that are null although no word in its `flags` explains it."""
    nulls = {name for name in column_names(*METRIC_GROUPS) if name in row and row[name] is None}
    explained = explained_columns(row.get("flags") or [])
    return sorted(name for name in nulls - explained if not is_null_by_definition(name, row["depth"]))


def _complete(row: Mapping[str, Any]) -> dict[str, Any]:
    where = f"layer {row.get('layer')}"
    if unknown := set(row) - set(column_names()):
        raise ValueError(f"{where}: unknown columns: {', '.join(sorted(unknown))}")
    complete: dict[str, Any] = {name: row.get(name) for name in column_names()} | {"schema_version": SCHEMA_VERSION}
    absent = [name for name in REQUIRED_COLUMNS if complete[name] is None]
    if absent or complete["flags"] is None:
        raise ValueError(f"{where}: null in {', '.join(absent or ['flags'])}")
    if unexplained := unexplained_nulls(complete):
        raise ValueError(f"{where}: null without a word in flags that explains it: {', '.join(unexplained)}")
    return complete


def _array(column: Column, values: list[Any], layers: list[Any]) -> pa.Array:
    try:
        if "int" in column.type and not all(isinstance(value, Integral) for value in _items(values)):
            raise TypeError(f"not an integer: {values}")  # Arrow would truncate 1.5 to 1
        array = pa.array(values, _type(column.type))
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(f"column {column.name} ({column.type}): {error}") from error
    nonfinite = [layer for layer, value in zip(layers, array, strict=True) if not _is_finite(value.as_py())]
    if nonfinite:
        raise ValueError(f"{column.name} is not finite in layers {nonfinite}: write null and a word in flags")
    return array


def _items(values: list[Any]) -> Iterator[Any]:
    """Yield every non-null value, with lists flattened."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _items(list(value))
        elif value is not None:
            yield value


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _field(column: Column) -> pa.Field:
    return pa.field(column.name, _type(column.type), metadata={"unit": column.unit, "meaning": column.meaning})


def _type(name: str) -> pa.DataType:
    if name.startswith("list<"):
        return pa.list_(_type(name.removeprefix("list<").removesuffix(">")))
    if name == "timestamp[us, UTC]":
        return pa.timestamp("us", tz="UTC")
    return pa.type_for_alias(name)
