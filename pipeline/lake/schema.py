"""The rows as an Arrow table: the contract of columns.csv, enforced on the way in."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from numbers import Integral
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import (
    METRIC_GROUPS,
    MU_PROBABILITIES,
    Column,
    all_columns,
    column_names,
    explained_columns,
    is_null_by_definition,
)
from pipeline.lake import checksum

SCHEMA_VERSION = 1
REQUIRED_COLUMNS = (
    *("cell_id", "recipe", "recipe_fingerprint", "algorithm", "model", "kind", "revision"),
    *("weights_digest", "config_digest", "tokenizer_digest", "corpus", "layer", "depth", "state", "status"),
)
SMALL_FILE_OPTIONS: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
"""A file holds a dozen rows: dictionaries, statistics and a second copy of the schema would be most of it."""


@cache
def arrow_schema() -> pa.Schema:
    """Every column with its unit and meaning; the schema's own metadata carries what is constant."""
    constant = {"schema_version": str(SCHEMA_VERSION), "mu_probabilities": json.dumps(MU_PROBABILITIES)}
    return pa.schema([_field(column) for column in all_columns()], metadata=constant)


def to_table(rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]) -> pa.Table:
    """The rows of one cell as a table with the full schema.

    Args:
        rows: one per layer, by column name; what a row leaves out is null. `schema_version` and, where it is left
            out, `written_at` are filled in.
        metadata: the file's key-value metadata (resolved recipe, versions).

    Raises:
        ValueError: a column that does not exist, a required one that is null, NaN or infinity, a value that its type
            cannot hold, or a metric that is null where no word in `flags` explains it. All are defects of the caller.
    """
    if not rows:
        raise ValueError("a cell without rows")
    stamp = {"written_at": datetime.now(UTC)}
    whole = [_complete(stamp | dict(row)) for row in rows]
    layers = [row["layer"] for row in whole]
    arrays = [_array(column, [row[column.name] for row in whole], layers) for column in all_columns()]
    table = pa.Table.from_arrays(arrays, schema=arrow_schema())
    return table.replace_schema_metadata({**(arrow_schema().metadata or {}), **metadata})


def encode_parquet(table: pa.Table) -> bytes:
    """The table as one Parquet file in memory, checked by reading it back: a file is written whole or not at all."""
    if not table.schema.equals(arrow_schema()):
        raise ValueError("not a table of to_table: its schema differs from the lake's")
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", **SMALL_FILE_OPTIONS) as writer:
        writer.add_key_value_metadata({**table.schema.metadata, checksum.KEY: checksum.BLANK})
        writer.write_table(table)
    data = checksum.fill_checksum(sink.getvalue().to_pybytes())
    if not pq.read_table(pa.BufferReader(data)).equals(table):
        raise ValueError("the Parquet file does not read back as it was written")
    return data


def _complete(row: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(row) - set(column_names())
    where = f"layer {row.get('layer')}"
    if unknown:
        raise ValueError(f"{where}: no such columns: {', '.join(sorted(unknown))}")
    whole: dict[str, Any] = {name: row.get(name) for name in column_names()} | {"schema_version": SCHEMA_VERSION}
    absent = [name for name in REQUIRED_COLUMNS if whole[name] is None]
    if absent or whole["flags"] is None:
        raise ValueError(f"{where}: null in {', '.join(absent or ['flags'])}")
    nulls = {
        name
        for name in column_names(*METRIC_GROUPS)
        if whole[name] is None and not is_null_by_definition(name, whole["depth"])
    }
    if unexplained := sorted(nulls - explained_columns(whole["flags"])):
        raise ValueError(f"{where}: null, and no word in flags explains it: {', '.join(unexplained)}")
    return whole


def _array(column: Column, values: list[Any], layers: list[Any]) -> pa.Array:
    try:
        if "int" in column.type and not all(isinstance(value, Integral) for value in _items(values)):
            raise TypeError(f"not whole: {values}")  # Arrow would cut 1.5 to 1
        array = pa.array(values, _type(column.type))
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(f"column {column.name} ({column.type}): {error}") from error
    wild = [layer for layer, value in zip(layers, array, strict=True) if not _is_finite(value.as_py())]
    if wild:
        raise ValueError(f"{column.name} is not finite in layers {wild}: write null and a word in flags")
    return array


def _items(values: list[Any]) -> Iterator[Any]:
    """Every value, those of lists one by one, without nulls."""
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
