"""Advisory leases on checkpoints, so that concurrent runs share the work instead of measuring a checkpoint twice.

Leases only save work; correctness rests on the atomic commit of cells. A lease is valid as long as its run sends
heartbeats: the lease of a dead run expires LEASE_TIMEOUT after the run's last heartbeat.
"""

from contextlib import suppress
from datetime import timedelta

from pipeline.errors import LakeError
from pipeline.lake.lake import Lake
from pipeline.lake.layout import LEASES_PREFIX
from pipeline.lake.run_records import is_active

LEASE_TIMEOUT = timedelta(seconds=30)
"""Age of the last heartbeat at which the leases of a run expire; it equals three heartbeat intervals."""


def acquire_lease(lake: Lake, content: str, run_id: str) -> str:
    """Acquire the lease of a checkpoint; return an empty string, or the id of another active run that holds the lease.

    Raises:
        LakeError: the lake cannot be written.
    """
    key = _key(content)
    if lake.store.put_new(key, run_id.encode()):
        return ""
    holder = ""
    with suppress(LakeError):  # the lease was released meanwhile
        holder = lake.store.get(key).decode(errors="replace")
    if holder == run_id or is_active(lake.store, holder, LEASE_TIMEOUT):
        return "" if holder == run_id else holder
    lake.store.put_or_replace(key, run_id.encode())
    return ""


def release_lease(lake: Lake, content: str, run_id: str) -> None:
    """Release the lease if this run holds it; a lease that cannot be deleted expires after the run ends."""
    with suppress(LakeError):
        if lake.store.get(_key(content)).decode(errors="replace") == run_id:
            lake.store.delete(_key(content))


def _key(content: str) -> str:
    return f"{LEASES_PREFIX}/{content}"
