"""Integrity check of a whole lake: files, names, numbers and records."""

import math
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.columns import FLAGS, METRIC_GROUPS, all_columns, column_names, column_range
from pipeline.errors import LakeError
from pipeline.lake import labels, layout
from pipeline.lake.lake import Lake
from pipeline.lake.layout import CELLS_PREFIX, FILE_NAME_PATTERNS
from pipeline.lake.manifest import LATEST_KEY, bytes_digest
from pipeline.lake.records import Failure, Tombstone
from pipeline.lake.scan import find_damage
from pipeline.lake.schema import REQUIRED_COLUMNS, arrow_schema, unexplained_nulls
from pipeline.lake.snapshot import find_corrupt_file
from pipeline.spec import Checkpoint

CELL_KEY_PATTERN = re.compile(rf"{CELLS_PREFIX}/model_key=(?P<model_key>[^/]+)/{FILE_NAME_PATTERNS[CELLS_PREFIX]}")
ALLOWED_WORDS = {"state": {"embedding", "block", "final_norm"}, "status": {"ok", "degenerate", "nonfinite"}}
CHECKED_NAME_GROUPS = {
    **{layout.LABELS_PREFIX: "digest", layout.V1_LABELS_PREFIX: "label"},
    **{layout.QUARANTINE_PREFIX: "cell", layout.ATTEMPTS_PREFIX: "cell"},
}
"""Part of a record's file name that must match its content."""
COMPARED_COLUMNS = column_names("layer", *METRIC_GROUPS)


class Problem(NamedTuple):
    """Defect of one file in a lake."""

    key: str
    found: str


def verify_lake(lake: Lake) -> list[Problem]:
    """Read every file and return all problems; an empty list if the lake is intact.

    Raises:
        LakeError: the lake cannot be listed at all.
    """
    return [*_cell_problems(lake), *_record_problems(lake), *_snapshot_problems(lake)]


def _cell_problems(lake: Lake) -> Iterator[Problem]:
    first: dict[str, tuple[str, pa.Table]] = {}
    for key in lake.store.list(CELLS_PREFIX):
        if not key.endswith(".parquet"):
            continue
        if not (name := CELL_KEY_PATTERN.fullmatch(key)):
            yield Problem(key, "not a cell file name")
            continue
        table = _table(lake, key)
        if isinstance(table, str):
            yield Problem(key, table)
            continue
        yield from (Problem(key, found) for found in _table_problems(table, name["cell"], name["model_key"]))
        twin, rows = first.setdefault(name["cell"], (key, table))
        if twin != key and not _equal(rows, table):
            yield Problem(key, f"its numbers differ from {twin}, which is the same cell")


def _table(lake: Lake, key: str) -> pa.Table | str:
    """Return the rows of a file, or a description of its damage."""
    try:
        data = lake.store.get(key)
    except LakeError as error:
        return error.found
    return find_damage(data) or pq.read_table(BytesIO(data))


def _table_problems(table: pa.Table, cell_id: str, model_key: str) -> Iterator[str]:
    """Yield the problems in the rows of one cell."""
    types = {field.name: field.type for field in arrow_schema()}
    odd = [f"{field.name} is {field.type}" for field in table.schema if types.get(field.name, field.type) != field.type]
    if odd or table.num_rows == 0:
        yield f"wrong column types: {', '.join(odd)}" if odd else "no rows"
        return
    rows = table.select(sorted({*types} & {*table.column_names})).to_pylist()
    if (ids := {row.get("cell_id") for row in rows}) != {cell_id}:
        yield f"its rows belong to cell {_join_first(ids)}"
    if (models := {_model_key(row.get("model")) for row in rows}) != {model_key}:
        yield f"its rows belong to model {_join_first(models)}"
    if len({row.get("layer") for row in rows}) < len(rows):
        yield "a layer has two rows"
    for row in rows:
        yield from (f"layer {row.get('layer')}: {found}" for found in _row_problems(row))


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
    yield from (f"unknown flag {flag!r}" for flag in row.get("flags") or [] if flag.partition(":")[0] not in FLAGS)
    if unexplained := unexplained_nulls(row):
        yield f"null without a word in flags that explains it: {', '.join(unexplained)}"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _equal(a: pa.Table, b: pa.Table) -> bool:
    shared = [name for name in COMPARED_COLUMNS if name in a.column_names and name in b.column_names]
    return a.select(shared).equals(b.select(shared))


def _model_key(model: Any) -> str | None:
    return Checkpoint.model_construct(model=model).model_key if isinstance(model, str) else None


def _join_first(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values))[:3])


def _record_problems(lake: Lake) -> Iterator[Problem]:
    """Yield labels, tombstones and failures that cannot be read or whose content does not match the file name."""
    name_from_content: dict[str, Callable[[str, bytes], str]] = {
        layout.LABELS_PREFIX: lambda key, data: bytes_digest(data) if labels.parse_labels(key, data) else "no records",
        layout.V1_LABELS_PREFIX: lambda key, data: labels.parse_labels(key, data)[0].name_digest,
        layout.QUARANTINE_PREFIX: lambda _, data: Tombstone.model_validate_json(data).cell_id,
        layout.ATTEMPTS_PREFIX: lambda _, data: Failure.model_validate_json(data).cell_id,
    }
    for prefix, parse_name in name_from_content.items():
        for key in lake.store.list(prefix):
            if key.endswith(".json"):
                yield from _check_record(lake, key, prefix, parse_name)


def _check_record(lake: Lake, key: str, prefix: str, parse_name: Callable[[str, bytes], str]) -> Iterator[Problem]:
    if not (name := re.fullmatch(rf"(?:.*/)?{FILE_NAME_PATTERNS[prefix]}", key)):
        yield Problem(key, "not a record file name")
        return
    try:
        expected = parse_name(key, lake.store.get(key))
    except ValidationError as error:
        yield Problem(key, f"not a valid record ({error.errors()[0]['msg']})")
        return
    if expected != name[CHECKED_NAME_GROUPS[prefix]]:
        yield Problem(key, f"its name does not match its content ({expected})")


def _snapshot_problems(lake: Lake) -> Iterator[Problem]:
    try:
        if key := find_corrupt_file(lake.store):
            yield Problem(key, "changed since it was written")
    except LakeError as error:
        yield Problem(LATEST_KEY, error.found)
