"""Parts (row files) of a snapshot: choice of the parts that a compaction rewrites, and writing in bounded memory."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl

from pipeline.columns import column_names
from pipeline.lake.cell_chunks import RowFiles, iter_cell_chunks
from pipeline.lake.left_out import leave_out
from pipeline.lake.manifest import Part
from pipeline.lake.store import Store

PART_CELLS = 40_000
"""Number of cells of a full part. A lake of a million cells has 25 full parts."""
SMALL_PART_CELLS = 1000
"""Number of cells up to which a part is rewritten by every compaction that adds cells."""
SORT_COLUMNS = ("model", "corpus", "recipe", "layer", "step", "cell_id")
"""Sort order of the rows. Columns that queries filter by come first, so that a query skips most row groups."""
ROW_GROUP = 2**14
MEMORY_LIMITS, SORT_THREADS = ("400MB", "800MB", "1600MB"), 2
"""Memory limits of DuckDB for sorting a part, in the order in which they are tried, and its number of threads.

A sort that needs more memory than the limit spills to disk. A part of the memory cannot be spilled; it grows with the
number of threads (by default one per core) and with the width of the rows. If this part exceeds the limit, DuckDB
reports that it is out of memory, and the next limit is tried.
"""
COPY_BLOCK = 1 << 20


class Contents(NamedTuple):
    """Cells of one part that is to be written."""

    new: dict[str, str]
    """Maps the id of each cell that no earlier part has to the key of the file from which its rows are read."""
    old: pl.DataFrame
    """Index (one row per cell) of the cells whose rows are copied from parts of the previous snapshot."""


def choose_parts(parts: Iterable[Part], stale: set[str], n_new: int) -> list[Part]:
    """Return the parts to rewrite: all `stale` parts and some small parts, which are merged with the new cells.

    Small parts are added, the smallest first, as long as the next one is not full and has no more cells than all new
    cells and chosen parts together. Because of this, a cell is rewritten at most
    log2(PART_CELLS / SMALL_PART_CELLS) + 1 times, apart from stale parts.

    Args:
        stale: keys of the parts that have cells whose files no longer exist.
        n_new: number of cells that no part has.
    """
    chosen = [part for part in parts if part.key in stale]
    total = max(n_new + sum(part.cells for part in chosen), SMALL_PART_CELLS if n_new else 0)
    for part in sorted((part for part in parts if part.key not in stale), key=lambda part: part.cells):
        if part.cells > total or part.cells >= PART_CELLS:
            break
        chosen.append(part)
        total += part.cells
    return chosen


def divide_cells(new: dict[str, str], old: pl.DataFrame) -> Iterator[Contents]:
    """Divide new and old cells into parts of at most PART_CELLS cells, in the order of the keys of their files.

    The keys sort by model, so a part has few models. See `Contents` for the arguments.
    """
    keys = sorted([*new.values(), *old["key"]])
    cell_by_key = {key: cell_id for cell_id, key in new.items()}
    for start in range(0, len(keys), PART_CELLS):
        mine = set(keys[start : start + PART_CELLS])
        yield Contents({cell_by_key[key]: key for key in sorted(mine & cell_by_key.keys())}, _with_keys(old, mine))


def write_part(
    store: Store, contents: Contents, sources: Sequence[Path | bytes], key: str
) -> tuple[Part, pl.DataFrame] | None:
    """Write one part; return it with the index of its cells, or None if none of its cells can be read.

    Args:
        sources: row files that contain the rows of the cells in `contents.old`.
        key: key of the row file to write.

    Raises:
        LakeError: the file cannot be written.
    """
    row_files, index = RowFiles(), [contents.old]
    for chunk in iter_cell_chunks(store, contents.new):
        row_files.append(chunk.rows)
        index.append(chunk.cells)
        leave_out(store.uri, chunk.damaged)
    cells = pl.concat(index, how="diagonal").with_columns(part=pl.lit(key))
    if cells.is_empty():
        return None
    target = row_files.folder / "sorted.parquet"
    copied = [_as_path(source, row_files.folder / f"old-{i}.parquet") for i, source in enumerate(sources)]
    n_rows = _sort_rows(row_files, copied if contents.old.height else [], contents.old["cell_id"], target)
    if n_rows != cells["rows"].sum():
        raise ValueError(f"{n_rows} rows were sorted, {cells['rows'].sum()} are in the index")
    store.put_new_file(key, target)
    part = Part(key=key, digest=file_digest(target), cells=cells.height, rows=n_rows, bytes=target.stat().st_size)
    return part, cells


def file_digest(path: Path) -> str:
    """Return the digest of a file as a snapshot records it; the file is read in chunks."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(COPY_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sort_rows(row_files: RowFiles, old: list[Path], old_cells: pl.Series, target: Path) -> int:
    """Write rows to `target`, sorted; return their number.

    These are all rows of `row_files`, and those rows of the files `old` that belong to the cells `old_cells`.
    """
    columns = ", ".join(column_names())
    scans = [f"SELECT {columns} FROM read_parquet({_listed(paths)})" for paths in (row_files.paths, old) if paths]
    if old:
        scans[-1] += " WHERE cell_id IN (SELECT cell_id FROM wanted)"
    order = ", ".join(f"{name} NULLS LAST" for name in SORT_COLUMNS)
    query = f"SELECT * FROM ({' UNION ALL '.join(scans)}) ORDER BY {order}"
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}"
    copy = f"COPY ({query}) TO '{_quoted(target)}' ({options})"
    for limit in MEMORY_LIMITS[:-1]:
        with suppress(duckdb.OutOfMemoryException):
            return _copy_sorted(copy, old_cells, row_files.folder, limit)
    return _copy_sorted(copy, old_cells, row_files.folder, MEMORY_LIMITS[-1])


def _copy_sorted(copy: str, wanted: pl.Series, folder: Path, memory_limit: str) -> int:
    """Run a COPY statement within this memory limit; return the number of copied rows.

    The statement can read the cell ids `wanted` as a table of this name.
    """
    with closing(duckdb.connect()) as database:
        database.execute(f"SET memory_limit = '{memory_limit}'")
        database.execute(f"SET threads = {SORT_THREADS}")
        database.execute("SET preserve_insertion_order = false")  # the rows are sorted anyway
        database.execute(f"SET temp_directory = '{_quoted(folder / 'spill')}'")
        database.register("wanted", pl.DataFrame({"cell_id": wanted}).to_arrow())
        copied = database.execute(copy).fetchone()
    return copied[0] if copied else 0


def _listed(paths: Iterable[Path]) -> str:
    # read_parquet treats names as glob patterns: a wildcard in a name is escaped as a one-character class.
    names = (re.sub(r"[*?[]", r"[\g<0>]", _quoted(path)) for path in paths)
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _as_path(source: Path | bytes, target: Path) -> Path:
    """Return the path of a row file; bytes from an object store are first written to `target`."""
    if isinstance(source, Path):
        return source
    target.write_bytes(source)
    return target


def _with_keys(cells: pl.DataFrame, keys: set[str]) -> pl.DataFrame:
    return cells.filter(pl.col("key").is_in(sorted(keys)))
