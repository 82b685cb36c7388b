"""The lake of results: plain Parquet that anyone reads without this package, and the state of every sweep."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lake.lake import Lake
from pipeline.lake.records import Failure, Label, Tombstone
from pipeline.lake.status import status

if TYPE_CHECKING:
    from pipeline.lake.reader import Reader
    from pipeline.lake.schema import to_table

__all__ = ["Failure", "Label", "Lake", "Tombstone", "open", "status", "to_table"]


def open(uri: str | Path) -> "Reader":
    """The lake at `uri` for reading, as it is at this moment."""
    from pipeline.lake.reader import Reader

    return Reader(uri)


def __getattr__(name: str) -> Any:
    """`to_table` loads pyarrow, which planning does without."""
    if name == "to_table":
        from pipeline.lake.schema import to_table

        return to_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
