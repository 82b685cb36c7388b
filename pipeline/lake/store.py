"""Where bytes live: create-if-absent is the only commit, and no data file is ever replaced."""

import errno
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from pipeline.errors import LakeError, UsageError

STAGING = "_staging"
STALE_S = 86_400.0
OBJECT_STORES = ("s3", "gs", "az")
PLACES = "Give a folder, or an object store as s3://, gs:// or az://"
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


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
        return not self.has(key) and self.create(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """`put_new` without the look first: what alone decides between two writers at once."""
        ...

    def put_pointer(self, key: str, data: bytes) -> None:
        """Create or replace `key` at once: for small files that nobody scans."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes of `key`; LakeError where there are none."""
        ...

    def sources(self, keys: Iterable[str]) -> "Sequence[Path | bytes]":
        """What to read each key from: its file, or, where there are no files, its bytes."""
        ...

    def list(self, prefix: str) -> "Keys":
        """Keys below the folder `prefix`, sorted; none where it does not exist."""
        ...

    def delete(self, key: str) -> bool:
        """Remove `key`; False where there was none."""
        ...

    def leftovers(self, age_s: float) -> "Keys":
        """Keys of what writers that were killed this long ago, or longer, left in staging."""
        ...

    def tidy(self) -> int:
        """Remove the left-overs of a day ago and earlier; says how many."""
        return sum(self.delete(key) for key in self.leftovers(STALE_S))


Keys = list[str]


def open_store(uri: str | Path) -> Store:
    """The store at a folder, a `file://` URI or an object store; nothing is created before the first write.

    Raises:
        UsageError: no path, a place of another kind, a file, or an object store without obstore installed.
    """
    text = str(uri)
    parts = urlsplit(text) if "://" in text else None
    if parts and parts.scheme in OBJECT_STORES:
        return _open_objects(text)
    if parts and (parts.scheme != "file" or parts.netloc not in ("", "localhost")):
        raise UsageError(f"lake {text}", f"{parts.scheme}:// is not a place this version can write", PLACES)
    path = unquote(parts.path) if parts else text
    if not path:
        raise UsageError("lake ''", "no path", "Give a folder")
    store = LocalStore(Path(path))
    if store.root.exists() and not store.root.is_dir():
        raise UsageError(f"lake {text}", "a file, not a folder", "Give a folder")
    return store


def _open_objects(uri: str) -> Store:
    try:
        from pipeline.lake.objects import ObjectStore  # obstore is an extra
    except ModuleNotFoundError as error:
        found = f"object stores need {error.name}, which is not installed"
        raise UsageError(f"lake {uri}", found, "Install the extra: pip install 'shapelake[cloud]'") from error
    return ObjectStore(uri)


def parts(key: str) -> list[str]:
    """The names on the way to `key`, none of which may lead out of the lake.

    Raises:
        LakeError: a name that is empty, goes up, or holds what no file of a lake is called.
    """
    names = key.split("/")
    if not key.isprintable() or "\\" in key or any(name in ("", ".", "..") for name in names):
        raise LakeError(f"lake key {key!r}", "it would leave the lake's folder", "Give a plain relative name")
    return names


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
        return self.root.joinpath(*parts(key))

    def exists(self) -> bool:
        return self.root.exists()

    def has(self, key: str) -> bool:
        with self._reading(key):
            return self.path(key).exists()

    def create(self, key: str, data: bytes) -> bool:
        target = self.path(key)
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

    def sources(self, keys: Iterable[str]) -> Sequence[Path]:
        return [self.path(key) for key in keys]

    def list(self, prefix: str) -> Keys:
        with self._reading(prefix):
            return sorted(self._walk(prefix))

    def delete(self, key: str) -> bool:
        target = self.path(key)
        with self._writing(key):
            try:
                target.unlink()
            except FileNotFoundError:
                return False
            _sync(target.parent)
        return True

    def leftovers(self, age_s: float) -> Keys:
        found, horizon = [], time.time() - age_s
        for path in sorted((self.root / STAGING).glob("*")):
            with suppress(FileNotFoundError):  # its writer has just finished, or another run tidies too
                if path.stat().st_mtime < horizon:
                    found.append(f"{STAGING}/{path.name}")
        return found

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
