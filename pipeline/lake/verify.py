"""Integrity check of a whole lake: files, names, numbers and records."""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import LakeError
from pipeline.lake import layout
from pipeline.lake.cell_chunks import CHUNK_CELLS
from pipeline.lake.lake import Lake
from pipeline.lake.layout import CELLS_PREFIX, INDEX_PREFIX, SIMILARITY_PREFIX
from pipeline.lake.manifest import LATEST_KEY, MANIFEST_FILE, UNKNOWN_SIZE, Snapshot, latest_snapshot
from pipeline.lake.similarity_files import SIMILARITY_KEY_PATTERN, find_record_file_problem
from pipeline.lake.snapshot import digest_of_key
from pipeline.lake.store import STAGING, EntryKind, Store
from pipeline.lake.verify_cells import CELL_KEY_PATTERN, CellChecker, Problem
from pipeline.lake.verify_records import LINKED_FOLDERS, find_index_problem, find_record_problem, is_record_key
from pipeline.progress import Progress

NAMED_PREFIXES = (
    *(layout.LABELS_PREFIX, layout.V1_LABELS_PREFIX, layout.AUDITS_PREFIX),
    *(layout.QUARANTINE_PREFIX, layout.ATTEMPTS_PREFIX),
)
"""Folders of records. Readers warn about a JSON file in them whose name is not that of a record."""


def verify_lake(lake: Lake) -> list[Problem]:
    """Read every file and return all problems; an empty list if the lake is intact.

    Memory is bounded: cells are read CHUNK_CELLS at a time. A file that another process deletes meanwhile is not a
    problem unless it is a cell, because cells are never deleted.

    Raises:
        LakeError: the lake cannot be listed at all.
    """
    entries = lake.store.list_entries(LINKED_FOLDERS)
    files = [key for key, kind in entries.items() if kind == "file"]
    with Progress(f"Verifying {lake.uri}", len(files), "files") as progress:
        cells = [key for key in files if CELL_KEY_PATTERN.fullmatch(key)]
        records = [key for key in files if is_record_key(key)]
        similarity = [key for key in files if SIMILARITY_KEY_PATTERN.fullmatch(key)]
        return [
            *_cell_problems(lake.store, cells, progress),
            *_similarity_problems(lake.store, similarity, progress),
            *_record_problems(lake.store, records, progress),
            *_snapshot_problems(lake.store),
            *_name_problems(entries),
        ]


def _cell_problems(store: Store, keys: Sequence[str], progress: Progress) -> Iterator[Problem]:
    checker = CellChecker(store, keys)
    for chunk in _chunks(keys):
        yield from checker.check(chunk)
        progress.advance(len(chunk))


def _similarity_problems(store: Store, keys: Sequence[str], progress: Progress) -> Iterator[Problem]:
    """Yield the defects of similarity records, one file in memory at a time."""
    for key in keys:
        data = store.get_or_reason(key)
        if found := data if isinstance(data, str) else find_record_file_problem(key, data):
            yield Problem(key, f"{found}; delete the file, and run its sweep again to recreate it")
        progress.advance(1)


def _record_problems(store: Store, keys: Sequence[str], progress: Progress) -> Iterator[Problem]:
    """Yield records that cannot be read or whose content does not match the file name."""
    small = [key for key in keys if not key.endswith(".parquet")]
    for chunk in _chunks(small):
        for key, data in zip(chunk, store.read_many(chunk), strict=True):
            found = data if isinstance(data, str) else find_record_problem(key, data)
            if found and (isinstance(data, bytes) or store.has(key)):
                yield Problem(key, found)
        progress.advance(len(chunk))


def _snapshot_problems(store: Store) -> Iterator[Problem]:
    """Yield the defects of `LATEST` and of every file that it names; older snapshots are no longer read."""
    try:
        if (latest := latest_snapshot(store)) is None:
            return
    except LakeError as error:
        yield Problem(LATEST_KEY, error.found)
        return
    for key, digest in latest.files.items():
        try:
            if digest_of_key(store, key) != digest:
                yield Problem(key, "changed since it was written")
        except LakeError as error:
            yield Problem(key, error.found)
    yield from _manifest_problems(store, latest)


def _manifest_problems(store: Store, latest: Snapshot) -> Iterator[Problem]:
    """Yield a problem if `LATEST` and the manifest of its snapshot differ; snapshots before v3 have no manifest."""
    key, is_v2 = latest.file_key(MANIFEST_FILE), any(part.bytes == UNKNOWN_SIZE for part in latest.parts)
    if not store.has(key):
        yield from () if is_v2 else [Problem(LATEST_KEY, f"names a snapshot whose manifest {key} is missing")]
    elif isinstance(copy := store.get_or_reason(key), bytes) and copy != store.get(LATEST_KEY):
        yield Problem(key, f"differs from {LATEST_KEY}")


def _name_problems(entries: Mapping[str, EntryKind]) -> Iterator[Problem]:
    """Yield every entry that is not a file of the lake: unknown names, links, pipes, devices, misplaced folders."""
    for key, kind in entries.items():
        if kind == "file":
            found = _find_name_problem(key, entries)
        elif kind == "folder":
            is_misplaced = _is_data_key(key) or is_record_key(key) or key.startswith(f"{STAGING}/")
            found = "a folder, which is not a file of the lake" if is_misplaced else None
        else:
            found = "not a regular file, and so not a file of the lake"
        if found:
            yield Problem(key, found)


def _find_name_problem(key: str, entries: Mapping[str, EntryKind]) -> str | None:
    if _is_data_key(key) or is_record_key(key):
        return None
    if key.startswith(f"{INDEX_PREFIX}/"):
        return find_index_problem(key, entries)
    if key.startswith(f"{STAGING}/") and key.count("/") == 1:  # unfinished or left by a killed writer
        return None
    if key.startswith(f"{CELLS_PREFIX}/") and key.endswith(".parquet"):
        return "not a cell file name"
    if key.startswith(f"{SIMILARITY_PREFIX}/") and key.endswith(".parquet"):
        return "not a similarity file name"
    is_record = key.startswith(tuple(f"{prefix}/" for prefix in NAMED_PREFIXES)) and key.endswith(".json")
    return "not a record file name" if is_record else "not a file of the lake"


def _is_data_key(key: str) -> bool:
    return bool(CELL_KEY_PATTERN.fullmatch(key) or SIMILARITY_KEY_PATTERN.fullmatch(key))


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), CHUNK_CELLS):
        yield keys[start : start + CHUNK_CELLS]
