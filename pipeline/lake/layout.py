"""What the files of a lake are called. Names say most of what planning asks for, so that it opens few."""

import re
from collections.abc import Iterator

from pipeline.errors import LakeError
from pipeline.lake.store import Store

CELLS, LABELS, AUDITS, RECIPES, ATTEMPTS = "cells/v1", "labels/v2", "audits/v1", "recipes", "attempts/v1"
QUARANTINE, RUNS, COLUMNS = "quarantine", "runs", "columns.csv"
SINGLE_LABELS = "labels/v1"
"""Where earlier versions wrote labels, one record to a file; read as before, written no more."""
STAMP = "%Y%m%dT%H%M%S.%fZ"
CELL, TIME = r"(?P<cell>[0-9a-f]{32})", r"(?P<stamp>\d{8}T\d{6}\.\d{6}Z)"
NAMES = {
    CELLS: rf"{CELL}\.parquet",
    LABELS: rf"{TIME}-(?P<said>[0-9a-f]{{32}})\.json",
    SINGLE_LABELS: rf"{TIME}-(?P<label>[0-9a-f]{{16}})-(?P<said>[0-9a-f]{{16}})\.json",
    AUDITS: rf"(?P<model>[0-9a-f]{{16}})-{TIME}-(?P<said>[0-9a-f]{{16}})\.json",
    ATTEMPTS: rf"{CELL}\.(?P<error_class>[a-z_]+)\.[0-9a-f]{{8}}\.json",
    QUARANTINE: rf"{CELL}\.json",
}


def listed(store: Store, prefix: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Every (key, parsed name) below `prefix`; what has another suffix is not ours and no reader's either.

    Raises:
        LakeError: a name with our suffix that is none of ours.
    """
    pattern = re.compile(NAMES[prefix])
    suffix = NAMES[prefix].rsplit(".", 1)[-1]
    for key in store.list(prefix):
        if name := pattern.fullmatch(key, key.rfind("/") + 1):
            yield key, name
        elif key.endswith(f".{suffix}"):
            shown = key if key.isprintable() else repr(key)  # a name may hold what steers a terminal
            raise LakeError(f"lake {store.uri}", f"{shown} is no file of a lake", "Move it away")
