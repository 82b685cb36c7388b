"""Everything a lake says is checked: files, names, numbers and records."""

import math
import random
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.columns import FLAGS, METRIC_GROUPS, all_columns, column_names, explained_columns, is_null_by_definition
from pipeline.errors import LakeError
from pipeline.lake import labels
from pipeline.lake.lake import Lake
from pipeline.lake.layout import (
    ATTEMPTS_PREFIX,
    CELLS_PREFIX,
    FILE_NAME_PATTERNS,
    LABELS_PREFIX,
    QUARANTINE_PREFIX,
    V1_LABELS_PREFIX,
)
from pipeline.lake.manifest import LATEST_KEY, bytes_digest
from pipeline.lake.records import Failure, Tombstone
from pipeline.lake.scan import find_damage
from pipeline.lake.schema import REQUIRED_COLUMNS, arrow_schema
from pipeline.lake.snapshot import find_corrupt_file
from pipeline.lake.value_ranges import column_range
from pipeline.spec import Checkpoint

CELL_KEY_PATTERN = re.compile(rf"{CELLS_PREFIX}/model_key=(?P<model_key>[^/]+)/{FILE_NAME_PATTERNS[CELLS_PREFIX]}")
ALLOWED_WORDS = {"state": {"embedding", "block", "final_norm"}, "status": {"ok", "degenerate", "nonfinite"}}
CHECKED_NAME_GROUPS = {
    LABELS_PREFIX: "said",
    V1_LABELS_PREFIX: "label",
    QUARANTINE_PREFIX: "cell",
    ATTEMPTS_PREFIX: "cell",
}
"""Which part of a record's name its content must bear out."""
COMPARED_COLUMNS = column_names("layer", *METRIC_GROUPS)


class Problem(NamedTuple):
    """Something in a lake that is not as it should be."""

    key: str
    found: str


def verify_lake(lake: Lake) -> list[Problem]:
    """What is wrong with the lake, by file; an empty list where nothing is. Every file is read.

    Raises:
        LakeError: the lake cannot be listed at all.
    """
    return [*_cell_problems(lake), *_record_problems(lake), *_snapshot_problems(lake)]


def random_cell(lake: Lake, rng: random.Random) -> tuple[str, pa.Table]:
    """A committed cell, every one as likely as another: its id, and its rows with the file's metadata.

    Raises:
        LakeError: no cells, or a file that is damaged.
    """
    if not (files := lake.cell_files()):
        raise LakeError(f"lake {lake.uri}", "no committed cells", "Run a sweep first")
    cell_id = rng.choice(sorted(files))
    data = lake.store.get(files[cell_id])
    if found := find_damage(data):
        raise LakeError(f"read {files[cell_id]} of the lake {lake.uri}", found, "Move it out of the lake, or mend it")
    return cell_id, pq.read_table(BytesIO(data))


def _cell_problems(lake: Lake) -> Iterator[Problem]:
    first: dict[str, tuple[str, pa.Table]] = {}
    for key in lake.store.list(CELLS_PREFIX):
        if not key.endswith(".parquet"):
            continue
        if not (name := CELL_KEY_PATTERN.fullmatch(key)):
            yield Problem(key, "no name of a cell")
            continue
        table = _table(lake, key)
        if isinstance(table, str):
            yield Problem(key, table)
            continue
        yield from (Problem(key, found) for found in _table_problems(table, name["cell"], name["model_key"]))
        twin, rows = first.setdefault(name["cell"], (key, table))
        if twin != key and not _equal(rows, table):
            yield Problem(key, f"other numbers than {twin}, which is the same cell")


def _table(lake: Lake, key: str) -> pa.Table | str:
    """The rows of a file, or what is wrong with it."""
    try:
        data = lake.store.get(key)
    except LakeError as error:
        return error.found
    return find_damage(data) or pq.read_table(BytesIO(data))


def _table_problems(table: pa.Table, cell_id: str, model_key: str) -> Iterator[str]:
    """What is wrong with the rows of one cell."""
    types = {field.name: field.type for field in arrow_schema()}
    odd = [f"{field.name} is {field.type}" for field in table.schema if types.get(field.name, field.type) != field.type]
    if odd or table.num_rows == 0:
        yield f"not the lake's types: {', '.join(odd)}" if odd else "no rows"
        return
    rows = table.select(sorted({*types} & {*table.column_names})).to_pylist()
    if (own := {row.get("cell_id") for row in rows}) != {cell_id}:
        yield f"rows of the cell {_some(own)}"
    if (own := {_model_key(row.get("model")) for row in rows}) != {model_key}:
        yield f"rows of the model {_some(own)}"
    if len({row.get("layer") for row in rows}) < len(rows):
        yield "a layer has two rows"
    for row in rows:
        yield from (f"layer {row.get('layer')}: {found}" for found in _row_problems(row))


def _row_problems(row: dict[str, Any]) -> Iterator[str]:
    if absent := [name for name in REQUIRED_COLUMNS if name in row and row[name] is None]:
        yield f"null in {', '.join(absent)}"
        return
    for column in all_columns():
        wanted = column_range(column)
        for value in _numbers(row.get(column.name)):
            if not math.isfinite(value) or (wanted and not wanted.low <= value <= wanted.high):
                yield f"{column.name} = {value}"
    yield from (
        f"{name} = {row[name]!r}" for name, known in ALLOWED_WORDS.items() if name in row and row[name] not in known
    )
    flags = row.get("flags") or []
    yield from (f"unknown flag {flag!r}" for flag in flags if flag.partition(":")[0] not in FLAGS)
    nulls = {
        n
        for n in column_names(*METRIC_GROUPS)
        if n in row and row[n] is None and not is_null_by_definition(n, row["depth"])
    }
    if unexplained := sorted(nulls - explained_columns(flags)):
        yield f"null without a reason: {', '.join(unexplained)}"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _equal(a: pa.Table, b: pa.Table) -> bool:
    held = {*a.column_names} & {*b.column_names}
    shared = [name for name in COMPARED_COLUMNS if name in held]
    return a.select(shared).equals(b.select(shared))


def _model_key(model: Any) -> str | None:
    return Checkpoint.model_construct(model=model).model_key if isinstance(model, str) else None


def _some(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values))[:3])


def _record_problems(lake: Lake) -> Iterator[Problem]:
    """Labels, tombstones and failures that cannot be read, or that lie under another's name."""
    own: dict[str, Callable[[str, bytes], str]] = {
        LABELS_PREFIX: lambda key, data: bytes_digest(data) if labels.parse_labels(key, data) else "no records",
        V1_LABELS_PREFIX: lambda key, data: labels.parse_labels(key, data)[0].name_digest,
        QUARANTINE_PREFIX: lambda _, data: Tombstone.model_validate_json(data).cell_id,
        ATTEMPTS_PREFIX: lambda _, data: Failure.model_validate_json(data).cell_id,
    }
    for prefix, said in own.items():
        for key in lake.store.list(prefix):
            if key.endswith(".json"):
                yield from _check_record(lake, key, prefix, said)


def _check_record(lake: Lake, key: str, prefix: str, own: Callable[[str, bytes], str]) -> Iterator[Problem]:
    name = re.fullmatch(rf"(?:.*/)?{FILE_NAME_PATTERNS[prefix]}", key)
    if not name:
        yield Problem(key, "no name of a record")
        return
    try:
        said = own(key, lake.store.get(key))
    except ValidationError as error:
        yield Problem(key, f"no such record ({error.errors()[0]['msg']})")
        return
    if said != name[CHECKED_NAME_GROUPS[prefix]]:
        yield Problem(key, "the record of another name")


def _snapshot_problems(lake: Lake) -> Iterator[Problem]:
    try:
        if key := find_corrupt_file(lake.store):
            yield Problem(key, "changed since it was written")
    except LakeError as error:
        yield Problem(LATEST_KEY, error.found)
