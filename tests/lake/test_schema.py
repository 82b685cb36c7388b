"""The schema is the published contract, and nothing enters a file that breaks it."""

import csv
import io
import json
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.columns import MU_PROBABILITIES, columns, names
from pipeline.lake import scan
from pipeline.lake.schema import METRICS, NULL_BY_DEFINITION, REQUIRED, encode, schema, to_table
from tests.lake import made

ADDED = {("config_digest", "string", "checkpoint"), ("algorithm", "int32", "keys")}


def rows(**changes):
    return made.rows(made.cell(made.checkpoint(1)), **changes)


def test_names_types_and_groups_are_the_contract_plus_two_added_columns(shared):
    with shared("schema.csv").open() as file:
        contract = {(row["name"], row["type"], row["group"]) for row in csv.DictReader(file)}
    assert {(c.name, c.type, c.group) for c in columns()} == contract | ADDED


def test_arrow_types_are_the_ones_named():
    """The types' own names, spelled as Arrow spells them."""
    spelled = {"float64": "double", "float32": "float"}
    for column in columns():
        inner = column.type.removeprefix("list<").removesuffix(">")
        expected = spelled.get(inner, inner)
        expected = f"list<item: {expected}>" if column.type.startswith("list<") else column.type
        expected = spelled.get(expected, expected).replace("timestamp[us, UTC]", "timestamp[us, tz=UTC]")
        assert str(schema().field(column.name).type) == expected


def test_polars_reads_with_the_same_schema():
    assert scan.schema() == pl.DataFrame(schema().empty_table()).schema


def test_every_column_has_a_meaning_of_its_own():
    meanings = [column.meaning for column in columns()]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)
    numbers = [c for c in columns() if c.group in METRICS and c.type.startswith(("float", "list<float"))]
    assert {c.name for c in numbers if not c.unit} == {"noise_ratio", "alpha", "mu_quantiles"}, "ratios of no unit"


def test_a_table_reads_back_as_written_with_its_metadata():
    table = to_table(rows(), {"recipe": "{}"})
    back = pq.read_table(io.BytesIO(encode(table)))
    assert back.equals(table)
    assert back.to_pylist() == [row | {"schema_version": 1} for row in rows()] == table.to_pylist()
    metadata = back.schema.metadata
    assert metadata[b"recipe"] == b"{}"
    assert metadata[b"schema_version"] == b"1"
    assert tuple(json.loads(metadata[b"mu_probabilities"])) == MU_PROBABILITIES


def test_what_a_row_leaves_out_is_null():
    few = [{name: row[name] for name in (*REQUIRED, "flags")} | {"flags": ["why"]} for row in rows()]
    table = to_table(few, {})
    assert table.schema.equals(schema())
    assert table.column("id_twonn").null_count == made.LAYERS
    assert len(set(table.column("written_at").to_pylist()) - {None}) == 1, "one time for the whole cell"
    assert set(table.column("schema_version").to_pylist()) == {1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_what_is_not_finite_is_refused_with_column_and_layer(value):
    for column, wrong in (("anisotropy", value), ("top_eigenvalues", [1.0, value]), ("load_s", value)):
        bad = rows()
        bad[1][column] = wrong
        with pytest.raises(ValueError, match=rf"{column} is not finite in layers \[1\]"):
            to_table(bad, {})


def test_a_number_too_large_for_float32_does_not_become_infinite():
    with pytest.raises(ValueError, match="load_s is not finite"):
        to_table(rows(load_s=1e300), {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id_twon": 1.0}, "no such columns: id_twon"),
        ({"model": None}, "null in model"),
        ({"flags": None}, "null in flags"),
        ({"layer": 40_000}, "column layer"),
        ({"n_points": "many"}, "column n_points"),
        ({"n_points": 1.5}, "column n_points"),
    ],
)
def test_what_breaks_the_contract_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        to_table(rows(**changes), {})


def test_a_cell_without_rows_is_refused():
    with pytest.raises(ValueError, match="without rows"):
        to_table([], {})


@pytest.mark.parametrize("name", names(*METRICS))
def test_a_null_metric_needs_a_word_unless_it_is_null_by_definition(name):
    to_table(rows(**{name: None}, flags=["too_few_points"]), {})
    if name in NULL_BY_DEFINITION:
        to_table(rows(**{name: None}), {})
        return
    with pytest.raises(ValueError, match=f"null without a word in flags: {name}"):
        to_table(rows(**{name: None}), {})


def test_encode_takes_no_other_table():
    with pytest.raises(ValueError, match="its schema differs"):
        encode(pa.table({"cell_id": ["a"]}))
