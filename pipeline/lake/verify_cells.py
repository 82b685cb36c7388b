"""Integrity check of the cell files, in chunks of bounded memory."""

import re
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LakeError
from pipeline.lake.layout import CELLS_PREFIX, FILE_NAME_PATTERNS
from pipeline.lake.scan import ARROW_READ_ERRORS, describe_parse_error, find_damage, find_excess
from pipeline.lake.store import Store
from pipeline.lake.suspects import OpenedCell, find_suspects
from pipeline.lake.verify_rows import find_table_problems, have_equal_numbers

CELL_KEY_PATTERN = re.compile(rf"{CELLS_PREFIX}/model_key=(?P<model_key>[^/]+)/{FILE_NAME_PATTERNS[CELLS_PREFIX]}")


class Problem(NamedTuple):
    """Defect of one file in a lake."""

    key: str
    found: str


class CellChecker:
    """Checker of cell files. Between calls it remembers only one key for each cell that has several files.

    Args:
        keys: keys of all cell files of the lake.
    """

    def __init__(self, store: Store, keys: Sequence[str]) -> None:
        self._store = store
        counts = Counter(key.rpartition("/")[2] for key in keys)
        self._first = {name: "" for name, count in counts.items() if count > 1}

    def check(self, keys: Sequence[str]) -> list[Problem]:
        """Return the problems of these files, in the order of `keys`."""
        schemas: list[pq.ParquetSchema] = []
        opened = [_open_cell(k, data, schemas) for k, data in zip(keys, self._store.read_many(keys), strict=True)]
        suspects = find_suspects(cell for cell in opened if isinstance(cell, OpenedCell))
        problems = []
        for key, cell in zip(keys, opened, strict=True):
            found = [cell] if isinstance(cell, str) else self._problems(cell, is_suspect=key in suspects)
            problems += [Problem(key, one) for one in found]
        return problems

    def _problems(self, cell: OpenedCell, is_suspect: bool) -> list[str]:
        twin = self._twin(cell)
        if not (is_suspect or twin):
            return []
        table = _read_table(cell.data)
        if isinstance(table, str):
            return [table]
        found = [*find_table_problems(table, cell.cell_id, cell.model_key)] if is_suspect else []
        if twin and not self._equals(table, twin):
            found.append(f"its numbers differ from {twin}, which holds the same cell")
        return found

    def _twin(self, cell: OpenedCell) -> str | None:
        """Return the key of an earlier readable file of the same cell, under another model; None if there is none."""
        name = cell.key.rpartition("/")[2]
        if self._first.get(name) == "":
            self._first[name] = cell.key
            return None
        return self._first.get(name)

    def _equals(self, table: pa.Table, twin: str) -> bool:
        try:
            other = _read_table(self._store.get(twin))
        except LakeError:  # it was readable before
            return False
        return not isinstance(other, str) and have_equal_numbers(other, table)


def _open_cell(key: str, data: bytes | str, schemas: list[pq.ParquetSchema]) -> OpenedCell | str:
    """Return the file, or a description of its damage.

    Args:
        schemas: distinct schemas so far; a new one is appended. Cells share one schema object, because a schema keeps
            its footer alive, which takes five times the memory of the file.
    """
    if isinstance(data, str):
        return data
    if found := find_damage(data):
        return found
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        found = find_excess(footer)
    except ARROW_READ_ERRORS as error:
        return describe_parse_error(error)
    if found:
        return found
    schema = next((known for known in schemas if known.equals(footer.schema)), None)
    if schema is None:
        schemas.append(schema := footer.schema)
    name = CELL_KEY_PATTERN.fullmatch(key)
    assert name
    return OpenedCell(key, name["cell"], name["model_key"], data, schema, footer.num_rows)


def _read_table(data: bytes) -> pa.Table | str:
    try:
        table = pq.ParquetFile(BytesIO(data)).read()
        table.validate(full=True)
    except ARROW_READ_ERRORS as error:
        return describe_parse_error(error)
    return table
