"""Lake of results: plain Parquet that any tool reads without this package, and the state of every sweep."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lake.lake import Lake
from pipeline.lake.records import Audit, Audited, Failure, Label, Tombstone
from pipeline.lake.status import lake_status

if TYPE_CHECKING:
    from pipeline.lake.reader import LakeReader
    from pipeline.lake.schema import to_table

__all__ = ["Audit", "Audited", "Failure", "Label", "Lake", "LakeReader", "Tombstone"]
__all__ += ["lake_status", "open_lake", "to_table"]
LAZY_EXPORTS = {"LakeReader": "pipeline.lake.reader", "to_table": "pipeline.lake.schema"}


def open_lake(uri: str | Path) -> "LakeReader":
    """Open the lake at `uri` for reading in its current state; raise UsageError if it does not exist."""
    from pipeline.lake.reader import LakeReader

    return LakeReader(Lake.existing(uri).uri)


def __getattr__(name: str) -> Any:
    """Import a name of LAZY_EXPORTS at its first use, because planning does not need pyarrow or duckdb."""
    if name not in LAZY_EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LAZY_EXPORTS[name]), name)
