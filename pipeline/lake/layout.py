"""File names of a lake. The names contain most facts that planning needs, so planning opens few files."""

import re
from collections.abc import Iterator

from pipeline.lake.left_out import ignore_foreign
from pipeline.lake.store import Store

CELLS_PREFIX, LABELS_PREFIX, AUDITS_PREFIX, RECIPES_PREFIX = "cells/v1", "labels/v2", "audits/v1", "recipes"
ATTEMPTS_PREFIX, QUARANTINE_PREFIX, RUNS_PREFIX, COLUMNS_KEY = "attempts/v1", "quarantine", "runs", "columns.csv"
INDEX_PREFIX, LEASES_PREFIX, IDENTITY_KEY = "index/v1", "leases/v1", "lake.json"
SIMILARITY_PREFIX = "similarity/v1"
LAKE_NAMES = frozenset(
    {
        "cells",
        "labels",
        "audits",
        "recipes",
        "attempts",
        "quarantine",
        "runs",
        "index",
        "leases",
        "snapshots",
        "similarity",
    }
    | {"alerts", "LATEST", COLUMNS_KEY, IDENTITY_KEY}
)
"""Names directly below a lake's folder; a folder with none of them is not a lake."""
V1_LABELS_PREFIX = "labels/v1"
"""Label files of earlier versions, one record per file: still read, no longer written."""
UNCONFIRMED = "unconfirmed"
"""Error class in an attempt's file name until the host has proved to work; the record inside has the actual class."""
TIMESTAMP_FORMAT = "%Y%m%dT%H%M%S.%fZ"
CELL_ID_PATTERN, TIMESTAMP_PATTERN = r"(?P<cell>[0-9a-f]{32})", r"(?P<stamp>\d{8}T\d{6}\.\d{6}Z)"
FILE_NAME_PATTERNS = {
    CELLS_PREFIX: rf"{CELL_ID_PATTERN}\.parquet",
    LABELS_PREFIX: rf"{TIMESTAMP_PATTERN}-(?P<digest>[0-9a-f]{{32}})\.json",
    V1_LABELS_PREFIX: rf"{TIMESTAMP_PATTERN}-(?P<label>[0-9a-f]{{16}})-(?P<digest>[0-9a-f]{{16}})\.json",
    AUDITS_PREFIX: rf"(?P<model>[0-9a-f]{{16}})-{TIMESTAMP_PATTERN}-(?P<digest>[0-9a-f]{{16}})\.json",
    ATTEMPTS_PREFIX: rf"{CELL_ID_PATTERN}\.(?P<error_class>[a-z_]+)\.[0-9a-f]{{8}}\.json",
    QUARANTINE_PREFIX: rf"{CELL_ID_PATTERN}\.json",
    SIMILARITY_PREFIX: rf"{CELL_ID_PATTERN}-(?P<size>t\d+-r\d+-k\d+(?:-ranks)?)\.parquet",
}


def cell_key(model_key: str, cell_id: str) -> str:
    """Return the key of a cell's file."""
    return f"{CELLS_PREFIX}/model_key={model_key}/{cell_id}.parquet"


def similarity_key(model_key: str, cell_id: str, size: str) -> str:
    """Return the key of a cell's similarity records; `size` is `Similarity.name`, such as t512-r32-k16."""
    return f"{SIMILARITY_PREFIX}/model_key={model_key}/{cell_id}-{size}.parquet"


def list_parsed(store: Store, prefix: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield (key, parsed name) of each file below `prefix`; files with another suffix are ignored, as in every reader.

    A file with the suffix of `prefix` and a name that does not match the pattern is reported and ignored.
    """
    pattern = re.compile(FILE_NAME_PATTERNS[prefix])
    suffix = FILE_NAME_PATTERNS[prefix].rsplit(".", 1)[-1]
    for key in store.list(prefix):
        if name := pattern.fullmatch(key, key.rfind("/") + 1):
            yield key, name
        elif key.endswith(f".{suffix}"):
            ignore_foreign(store.uri, key, "not a lake file name")
