"""User cache folder for files that can be recomputed. Correctness never depends on it."""

import fcntl
import functools
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import uuid4

from pipeline.errors import UsageError

LOCK_TIMEOUT_S = 5.0
"""Seconds to wait for a transaction of another process, which takes milliseconds. After two such waits, this process
does not use the table again for that purpose (reading or writing)."""
WRITE_EVERY_S = 1.0
"""Interval in seconds at which a batch writes its entries; a killed process loses at most the entries of one
interval."""
CREATE = (
    "CREATE TABLE IF NOT EXISTS entries (name BLOB PRIMARY KEY, version BLOB, text BLOB, crc INTEGER) WITHOUT ROWID"
)
SELECT = "SELECT version, text, crc FROM entries WHERE name = ?"
SELECT_RANGE = "SELECT * FROM entries WHERE name >= ? AND name < ?"
REPLACE = "REPLACE INTO entries VALUES (?, ?, ?, ?)"

T = TypeVar("T")


def folder(name: str) -> Path:
    """Return the cache's subfolder `name`, created if needed; the root is $SHAPELAKE_CACHE or ~/.cache/shapelake.

    Raises:
        UsageError: the folder cannot be created.
    """
    base = os.environ.get("SHAPELAKE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "shapelake")
    path = Path(base).expanduser() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cache folder {path}", error.strerror or str(error), "Set SHAPELAKE_CACHE to a writable folder"
        ) from error
    return path


def folder_bytes(folder: Path) -> int:
    """Return the total size in bytes of the files below `folder`; of a link, the size of the link itself is counted."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a download renamed between walk and stat
                total += os.lstat(os.path.join(base, name)).st_size
    return total


def write_atomic(path: Path, data: bytes) -> None:
    """Write `path` atomically: a reader sees all of `data` or the previous file."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextmanager
def hold_file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` between processes; the kernel releases it if the process dies."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        # On a file system without locks two processes may do the same work; the result is still correct.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Entry(NamedTuple):
    """Row of a table without its name.

    `crc` is the CRC-32 of name, version and text. It reveals a row that a disk damaged, because SQLite would not
    notice.
    """

    version: bytes
    text: bytes
    crc: int


class Table:
    """Table of texts in one SQLite file, which threads and processes share. Each name has one text and its version.

    The file can be deleted, damaged or read-only at any time, or lie on a file system without locks. In each of these
    cases, `get` finds nothing and `put` stores nothing, and a damaged file is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._usable = {"read": True, "write": True}
        self._unwritten: dict[bytes, Entry] = {}
        self._read_ahead: dict[bytes, Entry] = {}
        self._batches, self._written_at = 0, 0.0

    def get(self, name: str, version: str) -> str | None:
        """Return the text stored under `name` with this version; None if the entry is absent, outdated or damaged."""
        key, wanted = os.fsencode(name), version.encode()
        with self._lock:
            entry = self._unwritten.get(key) or self._read_ahead.get(key)
            entry = entry or self._run("read", lambda db: db.execute(SELECT, (key,)).fetchone())
        if entry is None or entry[0] != wanted or not isinstance(text := entry[1], bytes):
            return None
        return text.decode() if entry[2] == _crc(key, wanted, text) else None

    def put(self, name: str, version: str, text: str) -> None:
        """Store a text under `name`, in place of any other version."""
        key, row = os.fsencode(name), (version.encode(), text.encode())
        with self._lock:
            self._unwritten[key] = Entry(*row, _crc(key, *row))
            if not self._batches or time.monotonic() - self._written_at > WRITE_EVERY_S:
                self._write()

    @contextmanager
    def batch(self, prefix: str) -> Iterator[None]:
        """Make many `get` and `put` calls inside the block fast, by grouping them into few transactions.

        At the start of the block, all entries whose names begin with `prefix` are read into memory. Entries that `put`
        stores are written together, every WRITE_EVERY_S seconds and at the end of the block.
        """
        first = os.fsencode(prefix)
        with self._lock:
            rows = self._run("read", lambda db: db.execute(SELECT_RANGE, (first, first + b"\xff")).fetchall())
            self._read_ahead |= {name: Entry(*row) for name, *row in rows or ()}
            self._batches += 1
        try:
            yield
        finally:
            with self._lock:
                self._batches -= 1
                self._write()
                self._read_ahead = self._read_ahead if self._batches else {}

    def _write(self) -> None:
        rows = [(name, *entry) for name, entry in self._unwritten.items()]
        if rows:
            self._run("write", lambda db: _replace(db, rows))
        if self._batches:
            self._read_ahead |= self._unwritten
        self._unwritten.clear()
        self._written_at = time.monotonic()

    def _run(self, use: str, call: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return `call(database)`; None if it fails twice, and then on every later call with the same `use`.

        Args:
            use: `read` or `write`.
        """
        for _ in range(2 if self._usable[use] else 0):
            try:
                self._database = self._database or _connect(self._path)
                return call(self._database)
            except sqlite3.Error as error:
                self._close(damaged=not isinstance(error, sqlite3.OperationalError))
        self._usable[use] = False
        return None

    def _close(self, damaged: bool) -> None:
        if self._database:
            self._database.close()
        self._database = None
        if damaged:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def table(name: str) -> Table:
    """Return this process's table in the cache's subfolder `name`."""
    return _table(name, os.environ.get("SHAPELAKE_CACHE"), os.getpid())


@functools.cache
def _table(name: str, *_: object) -> Table:
    # A connection must not be used after a fork, hence the process id among the arguments.
    return Table(folder(name) / "entries.sqlite")


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        # Entries stay complete if the process is killed; only a power failure may damage the file.
        database.execute("PRAGMA synchronous = OFF")
        database.execute(CREATE)
    except BaseException:
        database.close()
        raise
    return database


def _replace(database: sqlite3.Connection, rows: Sequence[tuple[bytes | int, ...]]) -> None:
    with closing(database.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(REPLACE, rows)
        cursor.execute("COMMIT")


def _crc(name: bytes, version: bytes, text: bytes) -> int:
    return zlib.crc32(b"\0".join((name, version, text)))
