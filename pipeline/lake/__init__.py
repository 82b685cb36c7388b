"""The lake of results: plain Parquet that anyone reads without this package, and the state of every sweep."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lake.lake import Lake
from pipeline.lake.records import Audit, Audited, Failure, Label, Tombstone
from pipeline.lake.status import lake_status

if TYPE_CHECKING:
    from pipeline.lake.reader import LakeReader
    from pipeline.lake.schema import to_table

__all__ = [
    "Audit",
    "Audited",
    "Failure",
    "Label",
    "Lake",
    "LakeReader",
    "Tombstone",
    "lake_status",
    "open_lake",
    "to_table",
]
LAZY_EXPORTS = {"LakeReader": "pipeline.lake.reader", "to_table": "pipeline.lake.schema"}


def open_lake(uri: str | Path) -> "LakeReader":
    """The lake at `uri` for reading, as it is at this moment; UsageError where there is none."""
    from pipeline.lake.reader import LakeReader

    return LakeReader(Lake.existing(uri).uri)


def __getattr__(name: str) -> Any:
    """What loads pyarrow or duckdb, which planning does without, loads when it is first named."""
    if name not in LAZY_EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY_EXPORTS[name]), name)
