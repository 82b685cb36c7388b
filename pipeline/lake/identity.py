"""Identity of a lake, by which a run detects that the lake at its path was deleted, unmounted or replaced."""

import json
from uuid import uuid4

from pipeline.errors import LakeError
from pipeline.lake.layout import IDENTITY_KEY
from pipeline.lake.record_files import read_object
from pipeline.lake.store import Store


class LakeIdentity:
    """Lake id stored in `lake.json`; the first run creates it.

    Args:
        expected: id that the lake must have; None = not checked.
    """

    def __init__(self, store: Store, expected: str | None = None) -> None:
        self._store, self.expected = store, expected

    def begin(self) -> str:
        """Return the lake's id, creating it if absent; `require` checks against this id from now on."""
        self._store.put_new(IDENTITY_KEY, json.dumps({"id": uuid4().hex}).encode())
        self.expected = self._read()
        return self.expected

    def require(self) -> None:
        """Raise LakeError if the lake was deleted, unmounted or replaced since the run began."""
        if self.expected is None:
            return
        try:
            same = self._read() == self.expected
        except LakeError:
            same = False
        if not same:
            found = "no longer the lake of this run: it was deleted, unmounted or replaced"
            raise LakeError(f"lake {self._store.uri}", found, "Restore or mount it, and run again")

    def _read(self) -> str:
        found = read_object(self._store, IDENTITY_KEY).get("id")
        if not isinstance(found, str):
            do = "Restore the file, or delete it to give the lake a new id"
            raise LakeError(f"read {IDENTITY_KEY} of the lake {self._store.uri}", "no id in it", do)
        return found
