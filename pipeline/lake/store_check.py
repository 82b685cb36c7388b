"""What a place for a lake does not do: asked by trying it."""

import warnings
from collections.abc import Iterator
from uuid import uuid4

from pipeline.lake.store import STAGING, Store


def check_store(store: Store) -> list[str]:
    """Write, create twice, read, list and delete one small file; a sentence per thing that does not hold.

    What the store itself warns of, such as links or conditions that are refused, is among them.

    The file lies in staging, where no reader looks, and is gone afterwards.

    Raises:
        LakeError: the place cannot be written or read at all.
    """
    key = f"{STAGING}/probe-{uuid4().hex}"
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            findings = list(_failed_guarantees(store, key))
        return [*dict.fromkeys(str(one.message) for one in said), *findings]
    finally:
        store.delete(key)


def _failed_guarantees(store: Store, key: str) -> Iterator[str]:
    first, second = store.create_if_absent(key, b"first"), store.create_if_absent(key, b"second")
    held = store.get(key)
    if not first:
        yield "A name that was never used counts as taken: nothing can be committed."
    if second or held != b"first":
        yield (
            "A file can be created twice, so names are looked at before each write instead: files are still whole or "
            "absent, but of two runs that write one cell at the same moment the later one stays. Run one at a time."
        )
    store.put_or_replace(key, b"third")
    if store.get(key) != b"third":
        yield "A replaced file still reads as it was before: progress and LATEST may be seen late."
    if key not in store.list(STAGING):
        yield "A new file is not listed at once: a rerun may measure a finished cell again."
