"""Reading of the JSON records of a lake, such as audits, failures and heartbeats."""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import LakeError
from pipeline.lake.left_out import leave_out
from pipeline.lake.store import Store

Record = TypeVar("Record", bound=BaseModel)


def read_records(store: Store, record_type: type[Record], keys: Iterable[str]) -> list[Record]:
    """Read the records of these files; damaged files are left out with a warning."""
    listed, records = list(keys), []
    for key, data in zip(listed, store.read_many(listed), strict=True):
        if isinstance(data, str):
            leave_out(store.uri, {key: data})
            continue
        try:
            records.append(record_type.model_validate_json(data))
        except ValidationError as error:
            found = f"not a valid {record_type.__name__.lower()} record ({error.errors()[0]['msg']})"
            leave_out(store.uri, {key: found})
    return records


def read_object(store: Store, key: str) -> dict[str, Any]:
    """Read the JSON object in the file `key`.

    Raises:
        LakeError: the file is absent or not a JSON object.
    """
    try:
        found = json.loads(store.get(key))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        do = "Restore the file, or move it out of the lake"
        raise LakeError(f"read {key} of the lake {store.uri}", "not a JSON object", do)
    return found
