"""Where bytes live: create-if-absent is the only commit, and no data file is ever replaced."""

import errno
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from pipeline.errors import LakeError, UsageError

STAGING = "_staging"
STALE_S = 86_400.0
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class Store(Protocol):
    """What a lake needs of a place. Keys are relative, with `/` between their parts."""

    uri: str

    def put_new(self, key: str, data: bytes) -> bool:
        """Create `key` whole and durable: True if created, False if it existed (and stays as it was)."""
        ...

    def put_pointer(self, key: str, data: bytes) -> None:
        """Create or replace `key` at once: for small files that nobody scans."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes of `key`; LakeError where there are none."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Keys below the folder `prefix`, sorted; none where it does not exist."""
        ...

    def delete(self, key: str) -> bool:
        """Remove `key`; False where there was none."""
        ...

    def tidy(self) -> int:
        """Remove what writers that were killed a day ago or earlier left in staging; says how much."""
        ...


def open_store(uri: str | Path) -> "LocalStore":
    """The store at a folder or a `file://` URI; nothing is created before the first write.

    Raises:
        UsageError: no path, a place of another kind, or a file.
    """
    text = str(uri)
    parts = urlsplit(text) if "://" in text else None
    if parts and (parts.scheme != "file" or parts.netloc not in ("", "localhost")):
        raise UsageError(f"lake {text}", f"{parts.scheme}:// is not a place this version can write", "Give a folder")
    path = unquote(parts.path) if parts else text
    if not path:
        raise UsageError("lake ''", "no path", "Give a folder")
    store = LocalStore(Path(path))
    if store.root.exists() and not store.root.is_dir():
        raise UsageError(f"lake {text}", "a file, not a folder", "Give a folder")
    return store


class LocalStore(Store):
    """A folder on a local or network file system.

    A file is written and synced in `_staging/` and then linked to its name: the link fails if the name is taken,
    and a reader sees the whole file or none, whenever the writer is killed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def path(self, key: str) -> Path:
        """The file of `key`, which may not leave the root."""
        parts = key.split("/")
        if "\0" in key or "\\" in key or any(part in ("", ".", "..") for part in parts):
            raise LakeError(f"lake key {key!r}", "it would leave the lake's folder", "Give a plain relative name")
        return self.root.joinpath(*parts)

    def put_new(self, key: str, data: bytes) -> bool:
        target = self.path(key)
        if target.exists():
            return False
        with self._writing(key), self._staged(data) as staged:
            created = self._link_new(staged, target)
            _sync(target.parent)
        return created

    def put_pointer(self, key: str, data: bytes) -> None:
        target = self.path(key)
        with self._writing(key), self._staged(data) as staged:
            os.replace(staged, target)
            _sync(target.parent)

    def get(self, key: str) -> bytes:
        with self._reading(key):
            return self.path(key).read_bytes()

    def list(self, prefix: str) -> list[str]:
        with self._reading(prefix):
            return sorted(self._walk(prefix))

    def delete(self, key: str) -> bool:
        target = self.path(key)
        with self._writing(key):
            if not target.exists():
                return False
            target.unlink()
            _sync(target.parent)
        return True

    def tidy(self) -> int:
        removed, horizon = 0, time.time() - STALE_S
        for path in (self.root / STAGING).glob("*"):
            with suppress(FileNotFoundError):  # its writer has just finished, or another run tidies too
                if path.stat().st_mtime < horizon:
                    path.unlink()
                    removed += 1
        return removed

    def _walk(self, prefix: str) -> Iterator[str]:
        folder = self.path(prefix)
        if not folder.exists():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                key = f"{prefix}/{entry.name}"
                if entry.is_dir():
                    yield from self._walk(key)
                else:
                    yield key

    def _link_new(self, staged: Path, target: Path) -> bool:
        """Give `staged` the name `target` unless that is taken."""
        try:
            os.link(staged, target)
        except FileExistsError:
            # An NFS server may have made the link and lost its answer: then both names are one file.
            return os.path.samefile(staged, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return self._replace_new(staged, target, error)
        return True

    def _replace_new(self, staged: Path, target: Path, refusal: OSError) -> bool:
        warnings.warn(
            f"lake {self.uri}: hard links are refused here ({refusal.strerror}), so files are renamed into place. They "
            "still appear whole or not at all, but of two writers of one file both may count as the first.",
            RuntimeWarning,
            stacklevel=2,  # one place, so that Python says it once
        )
        if target.exists():
            return False
        os.replace(staged, target)
        return True

    @contextmanager
    def _staged(self, data: bytes) -> Iterator[Path]:
        """A synced file with these bytes, on the lake's own file system and outside every glob."""
        staged = self.root / STAGING / uuid4().hex
        try:
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            _make_folder(self.root / STAGING)
            _make_folder(self.path(key).parent)
            yield
        except OSError as error:
            raise LakeError(
                f"write {key} to the lake {self.uri}",
                error.strerror or str(error),
                "Make the folder writable, free space on it, or name another with --lake",
            ) from error

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"read {key} of the lake {self.uri}", error.strerror or str(error), "Check the path and its permissions"
            ) from error


def _make_folder(folder: Path) -> None:
    """mkdir -p that lasts: each new name is synced in its parent."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder, and say so with EINVAL
            raise
    finally:
        os.close(handle)
