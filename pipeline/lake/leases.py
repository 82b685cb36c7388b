"""Leases: a run tells others which checkpoint it is measuring, so that two runs share the work instead of doubling it.

Leases are advisory. They save work; only the atomic commit of a cell keeps results whole. A lease is valid as long as
its run sends heartbeats: that of a dead run ends LEASE_TIMEOUT after the last one.
"""

from contextlib import suppress
from datetime import timedelta

from pipeline.errors import LakeError
from pipeline.lake.lake import Lake
from pipeline.lake.layout import LEASES_PREFIX
from pipeline.lake.run_records import is_active

LEASE_TIMEOUT = timedelta(seconds=30)
"""Three heartbeats."""


def acquire_lease(lake: Lake, content: str, run_id: str) -> str:
    """Take the lease of a checkpoint; return the id of the active run that holds it, empty if this run does now.

    Raises:
        LakeError: the lake cannot be written.
    """
    key = _key(content)
    if lake.store.put_new(key, run_id.encode()):
        return ""
    holder = ""
    with suppress(LakeError):  # released meanwhile
        holder = lake.store.get(key).decode(errors="replace")
    if holder == run_id or is_active(lake.store, holder, LEASE_TIMEOUT):
        return "" if holder == run_id else holder
    lake.store.put_or_replace(key, run_id.encode())
    return ""


def release_lease(lake: Lake, content: str, run_id: str) -> None:
    """Give this run's lease back, if it has it; one that cannot be deleted ends with the run."""
    with suppress(LakeError):
        if lake.store.get(_key(content)).decode(errors="replace") == run_id:
            lake.store.delete(_key(content))


def _key(content: str) -> str:
    return f"{LEASES_PREFIX}/{content}"
