"""Storage interface of a lake. The only commit is create-if-absent, and no data file is ever replaced."""

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

from pipeline.errors import LakeError

STAGING = "_staging"
STAGING_MAX_AGE_S = 86_400.0
Keys = list[str]
EntryKind = Literal["file", "folder", "other"]
"""Kind of a name below a lake's folder; `other` is a link, pipe, socket or device, which is never opened."""


class Store(Protocol):
    """Storage backend of a lake. Keys are relative paths with `/` between their parts."""

    uri: str
    lists_slowly: bool
    """True if listing is slow and billed per thousand names, so that readers should list only new names."""

    def top_names(self) -> set[str] | None:
        """Return the names directly below the lake's folder; None if there is no folder (object store: no key)."""
        ...

    def has(self, key: str) -> bool:
        """Return True if `key` exists."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Create `key` atomically and durably. Return False if `key` exists; its content then stays."""
        return not self.has(key) and self.create_if_absent(key, data)

    def create_if_absent(self, key: str, data: bytes) -> bool:
        """Create `key` like `put_new`, without a prior check; of concurrent writers, exactly one gets True."""
        ...

    def put_new_file(self, key: str, path: Path) -> bool:
        """Create `key` like `put_new`, with the content of a file; a folder store streams the file."""
        ...

    def put_or_replace(self, key: str, data: bytes) -> None:
        """Create or replace `key` atomically. This is only for small files that no scan reads."""
        ...

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`; raise LakeError if `key` does not exist."""
        ...

    def get_or_reason(self, key: str) -> bytes | str:
        """Return the bytes of `key` or, if it cannot be read, the reason."""
        try:
            return self.get(key)
        except LakeError as error:
            return error.found

    def read_many(self, keys: Sequence[str]) -> list[bytes | str]:
        """Return the bytes of each key or, for one that cannot be read, the reason."""
        ...

    def paths_or_bytes(self, keys: Iterable[str]) -> Sequence[Path | bytes]:
        """Return a readable source per key: the path of its file, or its bytes if the store has no files."""
        ...

    def list(self, prefix: str, after: str = "") -> Keys:
        """Return the sorted keys below the folder `prefix` that sort after `after`; empty if there is none."""
        ...

    def list_entries(self, linked: Collection[str] = ()) -> dict[str, EntryKind]:
        """Return the kind of every key of the lake, sorted by key; in an object store all are files.

        Args:
            linked: folders to enter even if they are symbolic links.
        """
        ...

    def delete(self, key: str) -> bool:
        """Remove `key`; return False if `key` does not exist."""
        ...

    def list_stale_staging(self, age_s: float) -> Keys:
        """Return the keys of staged files that killed writers left at least `age_s` seconds ago."""
        ...

    def remove_stale_staging(self) -> int:
        """Remove staged files that are older than a day; return their number."""
        return sum(self.delete(key) for key in self.list_stale_staging(STAGING_MAX_AGE_S))


def split_key(key: str) -> list[str]:
    """Split `key` into its parts, none of which may lead out of the lake.

    Raises:
        LakeError: a part is empty, `.` or `..`, or the key has a backslash or a character that is not printable.
    """
    names = key.split("/")
    if not key.isprintable() or "\\" in key or any(name in ("", ".", "..") for name in names):
        found = "not a plain relative path, so it could leave the lake's folder"
        raise LakeError(f"lake key {key!r}", found, "Rename the file or move it out of the lake")
    return names


def check_store(store: Store) -> list[str]:
    """Test the guarantees of the store with one small file; return a sentence per guarantee that does not hold.

    The file is created twice, replaced, read, listed and deleted. It lies in staging, which no reader lists. Warnings
    of the store itself, such as refused hard links or conditional puts, are part of the result.

    Raises:
        LakeError: the store cannot be written or read at all.
    """
    key = f"{STAGING}/probe-{uuid4().hex}"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            findings = list(_failed_guarantees(store, key))
        return [*dict.fromkeys(str(warning.message) for warning in caught), *findings]
    finally:
        store.delete(key)


def _failed_guarantees(store: Store, key: str) -> Iterator[str]:
    first, second = store.create_if_absent(key, b"first"), store.create_if_absent(key, b"second")
    content = store.get(key)
    if not first:
        yield "A new name is reported as existing: nothing can be committed."
    if second or content != b"first":
        yield (
            "A file can be created twice, so only the check before each write protects existing files. Files are still "
            "complete or absent, but if two runs commit one cell at the same moment, the later one wins. Run one at a "
            "time."
        )
    store.put_or_replace(key, b"third")
    if store.get(key) != b"third":
        yield "A replaced file still reads as before: readers may see progress and LATEST late."
    if key not in store.list(STAGING):
        yield "A new file is not listed immediately: a rerun may measure a finished cell again."
