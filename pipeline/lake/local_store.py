"""Lake in a folder: files are written to staging, synced, and hard-linked to their names."""

import errno
import os
import stat
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO
from uuid import uuid4

from pipeline.errors import LakeError
from pipeline.lake.left_out import ignore_foreign
from pipeline.lake.store import STAGING, EntryKind, Keys, Store, split_key

NO_HARD_LINK_ERRNOS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class LocalStore(Store):
    """Directory-backed store with atomic commits, on a local or network file system.

    A file is written and synced in `_staging/`, then hard-linked to its name. The link fails if the name exists, and
    a reader sees the complete file or none, even if the writer is killed.
    """

    lists_slowly = False

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def path(self, key: str) -> Path:
        """Return the path of `key`, which cannot leave the root."""
        return self.root.joinpath(*split_key(key))

    def top_names(self) -> set[str] | None:
        with self._reading("its names"):
            return set(os.listdir(self.root)) if self.root.exists() else None

    def has(self, key: str) -> bool:
        with self._reading(key):
            return self.path(key).exists()

    def create_if_absent(self, key: str, data: bytes) -> bool:
        return self._create(key, BytesIO(data))

    def put_new_file(self, key: str, path: Path) -> bool:
        with path.open("rb") as source:
            return self._create(key, source)

    def _create(self, key: str, source: BinaryIO) -> bool:
        target = self.path(key)
        with self._writing(key), self._staged(source) as staged:
            created = self._link_new(staged, target)
            _sync(target.parent)
        return created

    def put_or_replace(self, key: str, data: bytes) -> None:
        target = self.path(key)
        with self._writing(key), self._staged(BytesIO(data)) as staged:
            os.replace(staged, target)
            _sync(target.parent)

    def get(self, key: str) -> bytes:
        with self._reading(key), _open_regular(self.path(key)) as file:
            return file.read()

    def read_many(self, keys: Sequence[str]) -> list[bytes | str]:
        return [self.get_or_reason(key) for key in keys]

    def paths_or_bytes(self, keys: Iterable[str]) -> Sequence[Path]:
        return [self._readable_path(key) for key in keys]

    def list(self, prefix: str, after: str = "") -> Keys:
        self.path(prefix)  # refuses a prefix that leads out of the lake
        with self._reading(prefix):
            return sorted(key for key in self._walk(prefix) if key > after)

    def list_entries(self, linked: Collection[str] = ()) -> dict[str, EntryKind]:
        found: dict[str, EntryKind] = {}
        folders = [self.root] if self.root.exists() else []
        with self._reading("its folders"):
            while folders:
                for entry in os.scandir(folders.pop()):
                    key = os.path.relpath(entry.path, self.root)
                    found[key] = _kind(entry, follow=key in linked)
                    folders += [Path(entry.path)] if found[key] == "folder" else []
        return dict(sorted(found.items()))

    def delete(self, key: str) -> bool:
        target = self.path(key)
        with self._writing(key):
            try:
                target.unlink()
            except FileNotFoundError:
                return False
            _sync(target.parent)
        return True

    def list_stale_staging(self, age_s: float) -> Keys:
        keys, cutoff = [], time.time() - age_s
        for path in sorted((self.root / STAGING).glob("*")):
            with suppress(FileNotFoundError):  # its writer finished, or another run removed the file
                status = path.lstat()
                if status.st_mtime < cutoff and not stat.S_ISDIR(status.st_mode):
                    keys.append(f"{STAGING}/{path.name}")
        return keys

    def _readable_path(self, key: str) -> Path:
        """Return the path of `key`; raise LakeError if it exists and is not a regular file."""
        path = self.path(key)
        with self._reading(key), suppress(FileNotFoundError):
            _require_regular(path.lstat())
        return path

    def _walk(self, prefix: str) -> Iterator[str]:
        """Yield the regular files; links, pipes and devices are reported and left out, because reading them could hang
        or leave the lake."""
        folder = self.root / prefix  # not `self.path`: invalid names are reported by the caller
        if not folder.exists():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                key = f"{prefix}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(key)
                elif entry.is_file(follow_symlinks=False):
                    yield key
                else:
                    ignore_foreign(self.uri, key, "not a regular file")

    def _link_new(self, staged: Path, target: Path) -> bool:
        """Hard-link `staged` to `target`; return False if `target` exists."""
        try:
            os.link(staged, target)
        except FileExistsError:
            # An NFS server may have made the link although its reply was lost; then both names are one file.
            return os.path.samefile(staged, target)
        except OSError as error:
            if error.errno not in NO_HARD_LINK_ERRNOS:
                raise
            return self._replace_new(staged, target, error)
        return True

    def _replace_new(self, staged: Path, target: Path, refusal: OSError) -> bool:
        warnings.warn(
            f"lake {self.uri}: the file system refuses hard links ({refusal.strerror}), so files are renamed instead. "
            "Files are still complete or absent, but two concurrent writers of one file may both report success.",
            RuntimeWarning,
            stacklevel=2,  # one code location, so that Python shows the warning once
        )
        if target.exists():
            return False
        os.replace(staged, target)
        return True

    @contextmanager
    def _staged(self, source: BinaryIO) -> Iterator[Path]:
        """Yield a synced file with the bytes of `source`, on the lake's file system and outside every reader's glob."""
        staged = self.root / STAGING / uuid4().hex
        try:
            with staged.open("xb") as file:
                copyfileobj(source, file)
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
            do = "Make the folder writable, free disk space, or choose another folder with --lake"
            raise LakeError(f"write {key} to the lake {self.uri}", error.strerror or str(error), do) from error

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            do = "Check the path and its permissions"
            raise LakeError(f"read {key} of the lake {self.uri}", error.strerror or str(error), do) from error


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file; raise OSError for links, pipes and devices, which could hang or lead out of the lake."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        _require_regular(os.fstat(handle))
        return os.fdopen(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _kind(entry: "os.DirEntry[str]", follow: bool) -> EntryKind:
    if entry.is_dir(follow_symlinks=follow):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _make_folder(folder: Path) -> None:
    """Create `folder` and its parents durably: the parent of each new folder is synced."""
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
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder and report EINVAL
            raise
    finally:
        os.close(handle)
