"""Integrity check of all files of a lake except cells: name and content of each kind of file."""

import csv
import json
import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.columns import all_columns
from pipeline.lake import labels, layout, manifest
from pipeline.lake.index_records import RECORD_PATTERN
from pipeline.lake.layout import FILE_NAME_PATTERNS, TIMESTAMP_FORMAT, cell_key
from pipeline.lake.records import Audit, Failure, Heartbeat, Tombstone
from pipeline.recipe import RECIPE_ADAPTER
from pipeline.strict_model import digest_json

RUN_ID_PATTERN = r"[0-9A-Za-z][0-9A-Za-z._:-]{0,99}"
CONTENT_ERRORS = (ValueError, RecursionError, OverflowError, csv.Error)
"""Errors of parsing damaged content; pydantic's ValidationError and JSONDecodeError are ValueErrors."""


class RecordKind(NamedTuple):
    """Kind of file, recognised by its key."""

    pattern: re.Pattern[str]
    check: Callable[[re.Match[str], bytes], str | None]
    """Describes the defect of a file, or returns None; raises CONTENT_ERRORS for content that cannot be parsed."""


def find_record_problem(key: str, data: bytes) -> str | None:
    """Describe the defect of a file other than a cell; None if the file is intact."""
    for kind in RECORD_KINDS:
        if name := kind.pattern.fullmatch(key):
            return _defect(kind, name, data)
    return "not a file of the lake"


def is_record_key(key: str) -> bool:
    """Return True if a file of the lake other than a cell may have this key."""
    return any(kind.pattern.fullmatch(key) for kind in RECORD_KINDS)


def find_index_problem(key: str, keys: Collection[str]) -> str | None:
    """Describe the defect of an index record, which has no content, or return None; `keys` are all keys of the lake."""
    if not (name := RECORD_PATTERN.fullmatch(key)):
        return "not a file of the lake"
    try:
        datetime.strptime(name["stamp"], TIMESTAMP_FORMAT)
    except ValueError:
        return f"its name has no valid time ({name['stamp']})"
    cell = cell_key(name["model_key"], name["cell"])
    return None if cell in keys else f"the lake has no {cell}"


def _defect(kind: RecordKind, name: re.Match[str], data: bytes) -> str | None:
    try:
        return kind.check(name, data)
    except ValidationError as error:
        return f"not a valid record ({error.errors()[0]['msg']})"
    except CONTENT_ERRORS as error:
        return f"not a valid record ({' '.join(str(error).split())[:200]})"


def _expect(content: str, name: str) -> str | None:
    return None if content == name else f"its name does not match its content ({content})"


def _check_labels(name: re.Match[str], data: bytes) -> str | None:
    found = labels.parse_labels(name.string, data)
    return _expect(manifest.bytes_digest(data) if found else "no records", name["digest"])


def _check_v1_label(name: re.Match[str], data: bytes) -> str | None:
    (label,) = labels.parse_labels(name.string, data)
    found = _expect(label.name_digest, name["label"]) or _expect(_digest_without_time(data), name["digest"])
    return found or _expect(f"{label.seen_at:{TIMESTAMP_FORMAT}}", name["stamp"])


def _check_audit(name: re.Match[str], data: bytes) -> str | None:
    audit = Audit.model_validate_json(data)
    stamp = f"{audit.seen_at:{TIMESTAMP_FORMAT}}"
    found = _expect(digest_json(audit.model, bits=64), name["model"]) or _expect(stamp, name["stamp"])
    return found or _expect(_digest_without_time(data), name["digest"])


def _digest_without_time(data: bytes) -> str:
    """Compute the digest that the name of a record should have, from all fields in the file except the time.

    The raw fields are used, because another version may have written fields that this version does not know.
    """
    return digest_json({field: value for field, value in _parse_object(data).items() if field != "seen_at"}, bits=64)


def _check_attempt(name: re.Match[str], data: bytes) -> str | None:
    failure = Failure.model_validate_json(data)
    is_class_hidden = name["error_class"] == layout.UNCONFIRMED
    found = None if is_class_hidden else _expect(failure.error_class, name["error_class"])
    return _expect(failure.cell_id, name["cell"]) or found


def _check_tombstone(name: re.Match[str], data: bytes) -> str | None:
    return _expect(Tombstone.model_validate_json(data).cell_id, name["cell"])


def _check_recipe(name: re.Match[str], data: bytes) -> str | None:
    return _expect(RECIPE_ADAPTER.validate_json(data).label, name["label"])


def _check_progress(name: re.Match[str], data: bytes) -> str | None:
    return _expect(Heartbeat.model_validate_json(data).run_id, name["run"])


def _check_object(_: re.Match[str], data: bytes) -> str | None:
    _parse_object(data)
    return None


def _check_alert(name: re.Match[str], data: bytes) -> str | None:
    return _expect(str(_parse_object(data).get("id")), name["id"])


def _check_identity(_: re.Match[str], data: bytes) -> str | None:
    is_id = re.fullmatch(r"[0-9a-f]{32}", str(_parse_object(data).get("id")))
    return None if is_id else "no id in it"


def _check_lease(_: re.Match[str], data: bytes) -> str | None:
    return None if re.fullmatch(RUN_ID_PATTERN, data.decode()) else "not the id of a run"


def _check_manifest(name: re.Match[str], data: bytes) -> str | None:
    return _expect(manifest.parse_snapshot(data).key, name["folder"])


def _check_columns(_: re.Match[str], data: bytes) -> str | None:
    """Describe the defect of a table of columns, or return None.

    Defects are: it cannot be read, or a column has another type or unit than in this version. An unknown or missing
    column is none, since versions only add columns.
    """
    rows = list(csv.DictReader(data.decode().splitlines(), strict=True))
    fields = set(all_columns()[0]._fields)
    if not rows or any({*row} != fields or None in row.values() for row in rows):
        return "not a table of columns"
    found = {row["name"]: (row["type"], row["unit"]) for row in rows}
    known = {column.name: (column.type, column.unit) for column in all_columns()}
    changed = [name for name in found if found[name] != known.get(name, found[name])]
    return f"other types or units than this version: {', '.join(changed)}" if changed else None


def _check_nothing(_: re.Match[str], data: bytes) -> str | None:
    """Accept any content: the file is checked elsewhere, or never read."""
    return None


def _parse_object(data: bytes) -> dict[str, Any]:
    if not isinstance(found := json.loads(data), dict):
        raise ValueError("not a JSON object")
    return found


def _below(prefix: str) -> str:
    """Return the pattern of the record files at any depth below the folder `prefix`; readers accept any depth."""
    return rf"{prefix}/(?:.*/)?{FILE_NAME_PATTERNS[prefix]}"


RECORD_KINDS = tuple(
    RecordKind(re.compile(pattern), check)
    for pattern, check in (
        (_below(layout.LABELS_PREFIX), _check_labels),
        (_below(layout.V1_LABELS_PREFIX), _check_v1_label),
        (_below(layout.AUDITS_PREFIX), _check_audit),
        (_below(layout.QUARANTINE_PREFIX), _check_tombstone),
        (_below(layout.ATTEMPTS_PREFIX), _check_attempt),
        (rf"{layout.RECIPES_PREFIX}/(?P<label>[^/]+@\d+)\.json", _check_recipe),
        (rf"{layout.RUNS_PREFIX}/[^/]+/plan\.json", _check_object),
        (rf"{layout.RUNS_PREFIX}/(?P<run>[^/]+)/progress\.json", _check_progress),
        (rf"{layout.LEASES_PREFIX}/[0-9a-f]{{32}}", _check_lease),
        (r"alerts/v1/fired/(?P<id>[^/]+)\.json", _check_alert),
        (r"alerts/v1/told/[^/]+\.json", _check_object),
        (layout.IDENTITY_KEY, _check_identity),
        (layout.COLUMNS_KEY, _check_columns),
        (rf"(?P<folder>{manifest.FOLDER_PATTERN})/{manifest.MANIFEST_FILE}", _check_manifest),
        (manifest.SNAPSHOT_FILE_PATTERN.pattern, _check_nothing),
        (manifest.LATEST_KEY, _check_nothing),
    )
)
LINKED_FOLDERS = {"cells", "labels", "audits", "attempts", layout.CELLS_PREFIX, layout.LABELS_PREFIX} | {
    *(layout.V1_LABELS_PREFIX, layout.AUDITS_PREFIX, layout.ATTEMPTS_PREFIX, layout.QUARANTINE_PREFIX),
    *(layout.RECIPES_PREFIX, layout.RUNS_PREFIX, "leases", layout.LEASES_PREFIX, "index", layout.INDEX_PREFIX),
    *("similarity", layout.SIMILARITY_PREFIX, manifest.SNAPSHOTS_PREFIX),
    *("alerts", "alerts/v1", "alerts/v1/fired", "alerts/v1/told"),
}
"""Folders that readers enter even if they are symbolic links."""
