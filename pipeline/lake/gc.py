"""What may be taken away from a lake: what killed writers left, and snapshots that newer ones replaced."""

from datetime import timedelta

from pipeline.lake.lake import Lake
from pipeline.lake.manifest import superseded_snapshot_keys
from pipeline.lake.records import utc_now

GRACE = timedelta(days=1)


def collect_garbage(lake: Lake, grace: timedelta = GRACE, *, dry_run: bool = True) -> list[str]:
    """Keys of what no one has needed for `grace`; removed only where `dry_run` is false.

    A reader that was opened longer than `grace` ago may find its snapshot gone. Cells, labels, attempts, tombstones,
    recipes and runs are never touched.
    """
    keys = [
        *lake.store.list_stale_staging(grace.total_seconds()),
        *superseded_snapshot_keys(lake.store, utc_now() - grace),
    ]
    if not dry_run:
        for key in keys:
            lake.store.delete(key)
    return keys
