"""The schema equals the published contract, and rows that violate it are refused."""

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.columns import FLAGS, METRIC_GROUPS, MU_PROBABILITIES, all_columns, column_names, explained_columns
from pipeline.lake import scan
from pipeline.lake.schema import REQUIRED_COLUMNS, arrow_schema, encode_parquet, to_table
from tests.support import lake_rows

ROOT = Path(__file__).resolve().parents[2]
NO_SINK = {
    **dict.fromkeys(("participation_ratio", "effective_rank_sigma", "effective_rank_lambda", "alpha"), "spectrum"),
    **{"cosine_mean": "norms", "linearity": "linearity"},
}
"""Metrics with an error and a value without sinks, and their groups of columns."""
GROUPED = {
    **{f"{name}{end}": group for name, group in NO_SINK.items() for end in ("", "_no_sink")},
    **{"anisotropy": "anisotropy", "anisotropy_no_sink": "anisotropy", "norm_mean": "norms", "loss": "loss"},
    **{f"id_{name}": "dimension" for name in ("twonn", "mle", "mle_c50", "mle_c90", "lb20", "authors")},
    **{f"id_{name}": "dimension" for name in ("gride_4", "gride_16", "twonn_gaussian", "mle_gaussian")},
    **{f"id_{name}": "dimension" for name in ("twonn_types", "mle_types")},
}
NORMED = {"anisotropy": "anisotropy", "cosine_mean": "norms", "id_twonn": "dimension"}
ADDED = {
    *(("config_digest", "string", "checkpoint"), ("algorithm", "int32", "keys")),
    *(("text_sha256", "string", "text"), ("contexts_digest", "string", "text")),
    ("anisotropy_no_sink_se", "float64", "anisotropy"),
    ("batch_tokens", "int32", "provenance"),
    *((f"id_{name}_gaussian{se}", "float64", "dimension") for name in ("twonn", "mle") for se in ("", "_se")),
    *((f"{name}_no_sink", "float64", group) for name, group in NO_SINK.items()),
    *((f"{name}{end}_se", "float64", group) for name, group in NO_SINK.items() for end in ("", "_no_sink")),
    *((f"{name}_groups", "list<float64>", group) for name, group in GROUPED.items()),
    ("norm_mean_se", "float64", "norms"),
    *((f"id_{name}_se", "float64", "dimension") for name in ("lb20", "authors")),
    *((f"id_{name}_types{end}", "float64", "dimension") for name in ("twonn", "mle") for end in ("", "_se")),
    ("top_eigenvalues_no_sink", "list<float64>", "spectrum"),
    *((f"alpha_no_sink_{end}", "int32", "spectrum") for end in ("lo", "hi")),
    *((f"pca_{share}", "int32", "spectrum") for share in (90, 99)),
    *(("eigenvalue_ranks", "list<int32>", "spectrum"), ("eigenvalues_at_ranks", "list<float64>", "spectrum")),
    *(("marchenko_pastur_edge", "float64", "spectrum"), ("abs_median", "float64", "norms")),
    *((name, "int32", "counts") for name in ("n_types", "n_layer_sink_tokens")),
    ("id_local_quantiles", "list<float64>", "dimension"),
    *((f"{name}_normed{end}", "float64", group) for name, group in NORMED.items() for end in ("", "_se")),
    *((f"{name}_normed_groups", "list<float64>", group) for name, group in NORMED.items()),
}


ALPHA = {f"alpha{end}{more}" for end in ("", "_no_sink") for more in ("", "_se", "_groups")}


def rows(**changes):
    return lake_rows.rows(lake_rows.cell(lake_rows.checkpoint(1)), **changes)


def test_names_types_and_groups_are_the_contract_plus_the_added_columns(shared):
    with shared("schema.csv").open() as file:
        contract = {(row["name"], row["type"], row["group"]) for row in csv.DictReader(file)}
    assert {(c.name, c.type, c.group) for c in all_columns()} == contract | ADDED


def test_arrow_types_are_the_ones_named():
    """Compare the type names of columns.csv with those of Arrow."""
    spelled = {"float64": "double", "float32": "float"}
    for column in all_columns():
        inner = column.type.removeprefix("list<").removesuffix(">")
        expected = spelled.get(inner, inner)
        expected = f"list<item: {expected}>" if column.type.startswith("list<") else column.type
        expected = spelled.get(expected, expected).replace("timestamp[us, UTC]", "timestamp[us, tz=UTC]")
        assert str(arrow_schema().field(column.name).type) == expected


def test_polars_reads_with_the_same_schema():
    assert scan.polars_schema() == pl.DataFrame(arrow_schema().empty_table()).schema


def test_every_column_has_a_distinct_meaning():
    meanings = [column.meaning for column in all_columns()]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)
    numbers = [c for c in all_columns() if c.group in METRIC_GROUPS and c.type.startswith(("float", "list<float"))]
    assert {c.name for c in numbers if not c.unit} == {"noise_ratio", "mu_quantiles"} | ALPHA, "ratios have no unit"


def test_a_table_reads_back_as_written_with_its_metadata():
    table = to_table(rows(), {"recipe": "{}"})
    back = pq.read_table(io.BytesIO(encode_parquet(table)))
    assert back.equals(table)
    assert back.to_pylist() == [row | {"schema_version": 1} for row in rows()] == table.to_pylist()
    metadata = back.schema.metadata
    assert metadata[b"recipe"] == b"{}"
    assert metadata[b"schema_version"] == b"1"
    assert tuple(json.loads(metadata[b"mu_probabilities"])) == MU_PROBABILITIES


def test_missing_columns_become_null():
    required = [
        {name: row[name] for name in (*REQUIRED_COLUMNS, "flags")} | {"flags": ["not_measured"]} for row in rows()
    ]
    table = to_table(required, {})
    assert table.schema.equals(arrow_schema())
    assert table.column("id_twonn").null_count == lake_rows.LAYERS
    assert len(set(table.column("written_at").to_pylist()) - {None}) == 1, "one time for all rows of the cell"
    assert set(table.column("schema_version").to_pylist()) == {1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_nan_and_infinity_are_refused_with_column_and_layer(value):
    for column, wrong in (("anisotropy", value), ("top_eigenvalues", [1.0, value]), ("load_s", value)):
        bad = rows()
        bad[1][column] = wrong
        with pytest.raises(ValueError, match=rf"{column}.*\[1\]"):
            to_table(bad, {})


def test_a_number_too_large_for_float32_does_not_become_infinite():
    with pytest.raises(ValueError, match="load_s"):
        to_table(rows(load_s=1e300), {})


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"id_twon": 1.0}, r"unknown columns: id_twon$"),
        ({"model": None}, "null in model"),
        ({"flags": None}, "null in flags"),
        ({"layer": 40_000}, "column layer"),
        ({"n_points": "many"}, "column n_points"),
        ({"n_points": 1.5}, "column n_points"),
    ],
)
def test_a_row_that_violates_the_schema_is_refused(changes, fact):
    with pytest.raises(ValueError, match=fact):
        to_table(rows(**changes), {})


def test_a_cell_without_rows_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        to_table([], {})


BY_DEFINITION = {name for name in column_names(*METRIC_GROUPS) if name.endswith(("_se", "_gaussian", "_groups"))}


@pytest.mark.parametrize("name", column_names(*METRIC_GROUPS))
def test_a_null_metric_needs_a_flag_that_explains_it_unless_it_is_null_by_definition(name):
    explaining = [word for word in FLAGS if name in explained_columns([word])]
    assert "not_measured" in explaining
    for word in explaining:
        to_table(rows(**{name: None}, flags=["quantised", word]), {})
    if name in BY_DEFINITION:
        to_table(rows(**{name: None}), {})
        return
    others = [word for word in FLAGS if word not in explaining]
    for flags in ([], ["spectrum_floor"], others, ["no_such_word"]):
        with pytest.raises(ValueError, match=f"null .*flags.*: {name}$"):
            to_table(rows(**{name: None}, flags=flags), {})


def test_linearity_is_null_by_definition_only_if_no_layer_follows():
    """Depth is 1 at the last block and after the final norm."""
    before, last = rows()[1], rows()[-1]
    assert (before["depth"] < 1, last["depth"]) == (True, 1)
    to_table([last | {"linearity": None, "linearity_residual": None}], {})
    with pytest.raises(ValueError, match=r"null .*flags.*: linearity, linearity_residual$"):
        to_table([before | {"linearity": None, "linearity_residual": None}], {})


def test_the_detail_after_the_colon_of_a_flag_is_ignored():
    assert explained_columns(["no_lm_head:GPT2Model"]) == explained_columns(["no_lm_head"]) == set(column_names("loss"))


CAVEATS = {
    *("spectrum_floor", "few_points", "unresolved_points", "quantised"),
    *("few_tokens_per_dim", "constant_without_a_group", "group_too_small"),
    *("adapter_ignored", "ids_beyond_embedding"),
    *("unexpected_keys", "text_stack", "unwrapped_names", "shorter_context", "smaller_corpus", "tokenizer_round_trip"),
}


def test_caveats_explain_no_null():
    assert {word for word in FLAGS if not explained_columns([word])} == CAVEATS


def test_flags_explain_columns_that_exist():
    for flag in FLAGS.values():
        assert set(flag.groups) <= set(METRIC_GROUPS)
        assert set(flag.columns) <= set(column_names(*METRIC_GROUPS))


RAISED = re.compile(r"""flags\.add\("([a-z_]+)"\)""")
"""Flags that a metric sets; those of model, text and loss are in tuples and dicts, and listed below."""
OTHER_FLAGS = {
    *(
        "no_lm_head",
        "unexpected_keys",
        "text_stack",
        "unwrapped_names",
        "adapter_ignored",
        "ids_beyond_embedding",
        "no_own_loss",
        "no_mask_token",
        "nonfinite_loss",
        "nothing_to_predict",
    ),
    *("shorter_context", "smaller_corpus", "tokenizer_round_trip"),
    *("too_few_types", "group_too_small", "too_few_points", "too_few_normed_points"),
}


def test_the_code_sets_exactly_the_known_flags():
    sources = [path.read_text() for path in (ROOT / "pipeline").rglob("*.py") if path.name != "columns.py"]
    raised = {word for text in sources for word in RAISED.findall(text)}
    assert raised | OTHER_FLAGS | {"not_measured"} == set(FLAGS)
    for word in OTHER_FLAGS:
        assert any(f'"{word}"' in text for text in sources), word


def test_encode_refuses_a_table_with_another_schema():
    with pytest.raises(ValueError, match="schema"):
        encode_parquet(pa.table({"cell_id": ["a"]}))
