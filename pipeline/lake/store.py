"""What a lake needs of a place: create-if-absent is the only commit, and no data file is ever replaced."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import LakeError

STAGING = "_staging"
STAGING_MAX_AGE_S = 86_400.0
Keys = list[str]


class Store(Protocol):
    """What a lake needs of a place. Keys are relative, with `/` between their parts."""

    uri: str

    def exists(self) -> bool:
        """Whether anything is here at all."""
        ...

    def has(self, key: str) -> bool:
        """Whether there is a `key`."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Create `key` whole and durable: True if created, False if it existed (and stays as it was)."""
        return not self.has(key) and self.create_if_absent(key, data)

    def create_if_absent(self, key: str, data: bytes) -> bool:
        """`put_new` without the look first: what alone decides between two writers at once."""
        ...

    def put_or_replace(self, key: str, data: bytes) -> None:
        """Create or replace `key` at once: for small files that nobody scans."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes of `key`; LakeError where there are none."""
        ...

    def paths_or_bytes(self, keys: Iterable[str]) -> Sequence[Path | bytes]:
        """What to read each key from: its file, or, where there are no files, its bytes."""
        ...

    def list(self, prefix: str) -> Keys:
        """Keys below the folder `prefix`, sorted; none where it does not exist."""
        ...

    def delete(self, key: str) -> bool:
        """Remove `key`; False where there was none."""
        ...

    def list_stale_staging(self, age_s: float) -> Keys:
        """Keys of what writers that were killed this long ago, or longer, left in staging."""
        ...

    def remove_stale_staging(self) -> int:
        """Remove the left-overs of a day ago and earlier; says how many."""
        return sum(self.delete(key) for key in self.list_stale_staging(STAGING_MAX_AGE_S))


def split_key(key: str) -> list[str]:
    """The names on the way to `key`, none of which may lead out of the lake.

    Raises:
        LakeError: a name that is empty, goes up, or holds what no file of a lake is called.
    """
    names = key.split("/")
    if not key.isprintable() or "\\" in key or any(name in ("", ".", "..") for name in names):
        raise LakeError(f"lake key {key!r}", "it would leave the lake's folder", "Give a plain relative name")
    return names
