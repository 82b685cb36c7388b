"""Files of similarity records, which are committed and checked like the files of cells.

There is one file per cell and size of records; it has one row per layer.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake import checksum
from pipeline.lake.lake import Lake
from pipeline.lake.layout import FILE_NAME_PATTERNS, SIMILARITY_PREFIX, similarity_key
from pipeline.lake.record_rows import SHARED, find_rows_problem, find_size_problem
from pipeline.lake.scan import ARROW_READ_ERRORS, describe_parse_error, find_damage
from pipeline.lake.verify_rows import model_key_of
from pipeline.similarity.record import LayerRecord

SIMILARITY_KEY_PATTERN = re.compile(
    rf"{SIMILARITY_PREFIX}/model_key=(?P<model_key>[^/]+)/{FILE_NAME_PATTERNS[SIMILARITY_PREFIX]}"
)
COLUMNS: dict[str, tuple[str, str]] = {
    "cell_id": ("string", "cell whose hidden states these are"),
    "model": ("string", "model of the cell when it was recorded"),
    "revision": ("string", "revision of the cell when it was recorded"),
    "step": ("int64", "training step of that revision"),
    "tokenizer_digest": ("string", "digest of the tokenizer's files"),
    "corpus": ("string", "corpus of the cell"),
    "corpus_sha256": ("string", "checksum of the corpus"),
    "kind": ("string", "kind of the layer stack"),
    "recipe": ("string", "recipe of the cell"),
    "recipe_fingerprint": ("string", "digest of the recipe's fields"),
    "contexts_digest": ("string", "digest of the token ids of all contexts"),
    "tokens_digest": (
        "string",
        "digest of the token ids and of the compared positions; records with equal digests can be compared",
    ),
    "token_ids": ("list<int32>", "id of each compared token"),
    "token_groups": ("list<int16>", "group of contexts of each compared token"),
    "sinks": ("list<bool>", "compared tokens that are sinks in this checkpoint"),
    "layer": ("int16", "layer, as in the cells"),
    "depth": ("float64", "depth, as in the cells"),
    "state": ("string", "embedding, block or final_norm"),
    "status": ("string", "ok, or no_geometry: a state is not finite, all are equal, or there are under 3"),
    "neighbours": ("list<int16>", "tokens x k: indices of the nearest other compared tokens, nearest first"),
    "vectors": ("list<float16>", "tokens x rank: first left singular vectors of the centred states"),
    "values": ("list<float64>", "singular values of these vectors"),
    "diagonal": ("list<float32>", "squared distance of each compared token from the mean of all compared tokens"),
    "trace": ("float64", "sum of the diagonal"),
    "sum_of_squares": ("float64", "sum of the squared entries of the centred linear kernel"),
    "tail": ("float64", "norm of the part of the U-centred kernel that vectors and values leave out"),
    "ranks": ("list<int16>", "tokens x tokens: rank among the neighbours, 0 for itself; null without `ranks: true`"),
}
"""Type and meaning of each column. Matrices are flattened, row by row."""
ARRAYS = ("neighbours", "vectors", "values", "diagonal", "ranks")


class RecordSize(NamedTuple):
    """Size of similarity records, as the name of their file states it."""

    tokens: int
    """Largest number of compared tokens."""
    rank: int
    """Largest number of singular vectors per layer."""
    neighbours: int
    """Largest number of neighbours per token."""
    ranks: bool
    """True if the records have the neighbour ranks of all pairs of tokens."""


def parse_size(key: str) -> RecordSize:
    """Return the size of records that the key of their file states."""
    name = SIMILARITY_KEY_PATTERN.fullmatch(key)
    assert name, "a key of similarity records"
    tokens, rank, neighbours = (int(number) for number in re.findall(r"\d+", name["size"]))
    return RecordSize(tokens, rank, neighbours, name["size"].endswith("-ranks"))


@cache
def similarity_schema() -> pa.Schema:
    return pa.schema([pa.field(n, _type(t), metadata={"meaning": m}) for n, (t, m) in COLUMNS.items()])


def encode_records(rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]) -> bytes:
    """Encode the similarity records of one cell, one row per layer, as one Parquet file with a checksum."""
    columns = [_array(name, [row.get(name) for row in rows]) for name in COLUMNS]
    table = pa.Table.from_arrays(columns, schema=similarity_schema())
    sink = pa.BufferOutputStream()
    options = {"compression": "zstd", "use_dictionary": [*SHARED, "model"], "write_statistics": False}
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.add_key_value_metadata({**metadata, checksum.KEY: checksum.BLANK})
        writer.write_table(table)
    return checksum.fill_checksum(sink.getvalue().to_pybytes())


def commit_records(lake: Lake, cell_id: str, model_key: str, size: str, data: bytes) -> bool:
    """Commit the file of a cell's similarity records; return False if the lake has it already, which then stays."""
    lake.identity.require()
    return lake.store.put_new(similarity_key(model_key, cell_id, size), data)


def decode_rows(data: bytes, ranks: bool = True) -> list[dict[str, Any]]:
    """Decode a file of similarity records; return one dict per layer, by column name.

    Lists are NumPy arrays, and null is None.

    Args:
        ranks: also read the neighbour ranks; if False, the value of this column is None.

    Raises:
        ValueError: the file is damaged.
    """
    table = _read_table(data, ranks)
    if isinstance(table, str):
        raise ValueError(table)
    plain = table.select([name for name in table.column_names if name not in (*ARRAYS, *SHARED)]).to_pylist()
    for name in (*ARRAYS, *SHARED):
        if name not in table.column_names:
            plain = [row | {name: None} for row in plain]
            continue
        column = table.column(name).combine_chunks()
        for at, row in enumerate(plain):
            row[name] = column[at].values.to_numpy(zero_copy_only=False) if column[at].is_valid else None
    return plain


def layer_record(row: Mapping[str, Any]) -> LayerRecord | None:
    """Return the record of a decoded row; None for a layer without geometry."""
    if row["status"] != "ok":
        return None
    n = len(row["token_ids"])
    shaped = {name: row[name].reshape(n, -1) for name in ("neighbours", "vectors")}
    ranks = None if row["ranks"] is None else row["ranks"].reshape(n, n)
    numbers = {name: row[name] for name in ("values", "diagonal", "trace", "sum_of_squares", "tail")}
    return LayerRecord(**shaped, **numbers, ranks=ranks)


def find_record_file_problem(key: str, data: bytes) -> str | None:
    """Describe the defect of a file of records; None if the file is intact."""
    name = SIMILARITY_KEY_PATTERN.fullmatch(key)
    assert name, "a key of similarity records"
    table = _read_table(data)
    if isinstance(table, str):
        return table
    cells, models = (set(table.column(column).to_pylist()) for column in ("cell_id", "model"))
    if cells != {name["cell"]}:
        return f"its rows belong to cell {', '.join(sorted(map(str, cells))[:3])}"
    if {model_key_of(model) for model in models} != {name["model_key"]}:
        return "its rows belong to another model than its folder states"
    return find_size_problem(table, *parse_size(key))


def _read_table(data: bytes, ranks: bool = True) -> pa.Table | str:
    """Read the rows of a file, or describe its damage."""
    if found := find_damage(data):
        return found
    try:
        file = pq.ParquetFile(BytesIO(data))
        names = None if ranks else [name for name in file.schema_arrow.names if name != "ranks"]
        table = file.read(names)
        table.validate(full=True)
    except ARROW_READ_ERRORS as error:
        return describe_parse_error(error)
    needed = [field for field in similarity_schema() if ranks or field.name != "ranks"]
    if missing := [field.name for field in needed if field.name not in table.column_names]:
        return f"missing columns: {', '.join(missing[:3])}"
    if odd := [field.name for field in needed if table.schema.field(field.name).type != field.type]:
        return f"wrong column types: {', '.join(odd)}"
    return find_rows_problem(table) or table


def _array(name: str, values: list[Any]) -> pa.Array:
    flat = [value.reshape(-1) if isinstance(value, np.ndarray) else value for value in values]
    return pa.array(flat, _type(COLUMNS[name][0]))


def _type(name: str) -> pa.DataType:
    if name.startswith("list<"):
        return pa.list_(_type(name.removeprefix("list<").removesuffix(">")))
    return pa.float16() if name == "float16" else pa.type_for_alias(name)
