"""What the files of a lake are called. Names say most of what planning asks for, so that it opens few."""

import re
from collections.abc import Iterator

from pipeline.errors import LakeError
from pipeline.lake.store import Store

CELLS_PREFIX, LABELS_PREFIX, AUDITS_PREFIX, RECIPES_PREFIX, ATTEMPTS_PREFIX = (
    "cells/v1",
    "labels/v2",
    "audits/v1",
    "recipes",
    "attempts/v1",
)
QUARANTINE_PREFIX, RUNS_PREFIX, COLUMNS_KEY = "quarantine", "runs", "columns.csv"
V1_LABELS_PREFIX = "labels/v1"
"""Where earlier versions wrote labels, one record to a file; read as before, written no more."""
TIMESTAMP_FORMAT = "%Y%m%dT%H%M%S.%fZ"
CELL_ID_PATTERN, TIMESTAMP_PATTERN = r"(?P<cell>[0-9a-f]{32})", r"(?P<stamp>\d{8}T\d{6}\.\d{6}Z)"
FILE_NAME_PATTERNS = {
    CELLS_PREFIX: rf"{CELL_ID_PATTERN}\.parquet",
    LABELS_PREFIX: rf"{TIMESTAMP_PATTERN}-(?P<said>[0-9a-f]{{32}})\.json",
    V1_LABELS_PREFIX: rf"{TIMESTAMP_PATTERN}-(?P<label>[0-9a-f]{{16}})-(?P<said>[0-9a-f]{{16}})\.json",
    AUDITS_PREFIX: rf"(?P<model>[0-9a-f]{{16}})-{TIMESTAMP_PATTERN}-(?P<said>[0-9a-f]{{16}})\.json",
    ATTEMPTS_PREFIX: rf"{CELL_ID_PATTERN}\.(?P<error_class>[a-z_]+)\.[0-9a-f]{{8}}\.json",
    QUARANTINE_PREFIX: rf"{CELL_ID_PATTERN}\.json",
}


def list_parsed(store: Store, prefix: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Every (key, parsed name) below `prefix`; what has another suffix is not ours and no reader's either.

    Raises:
        LakeError: a name with our suffix that is none of ours.
    """
    pattern = re.compile(FILE_NAME_PATTERNS[prefix])
    suffix = FILE_NAME_PATTERNS[prefix].rsplit(".", 1)[-1]
    for key in store.list(prefix):
        if name := pattern.fullmatch(key, key.rfind("/") + 1):
            yield key, name
        elif key.endswith(f".{suffix}"):
            shown = key if key.isprintable() else repr(key)  # a name may hold what steers a terminal
            raise LakeError(f"lake {store.uri}", f"{shown} is no file of a lake", "Move it away")
