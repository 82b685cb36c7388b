"""Scratch of a node: one folder per run and checkpoint, leased by a live driver, within a disk budget.

A lease is a small file beside its folder; the file has the owner and the reserved bytes. Reservations are made under
one file lock, so that two processes cannot both reserve the last free bytes.
"""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from pipeline import cache
from pipeline.errors import FetchError, UsageError
from pipeline.progress import Progress

DRIVER_ENV = "SHAPELAKE_DRIVER"
"""Environment variable with HOST:PID of the driver: leases belong to the driver, which outlives its workers."""
POLL_S = 1.0
RESERVE_TIMEOUT_S = 3600.0
STALE_AFTER_S = 86400.0
"""Age at which a lease from another host counts as stale, because processes of other hosts cannot be checked."""


class Lease(NamedTuple):
    """Lease of a scratch folder."""

    folder: Path
    owner: str
    """Driver that owns the lease, as HOST:PID."""
    bytes: int
    since: float
    """Start of the lease in seconds since 1970."""

    @property
    def is_stale(self) -> bool:
        """True if the driver is dead, or if the lease is from another host and older than STALE_AFTER_S."""
        return is_driver_dead(self.owner) or (not _is_local(self.owner) and time.time() - self.since > STALE_AFTER_S)


def scratch_root() -> Path:
    """Return $SHAPELAKE_SCRATCH, or `scratch` in the user's cache folder; creates the folder.

    Raises:
        UsageError: the folder cannot be created.
    """
    if not (configured := os.environ.get("SHAPELAKE_SCRATCH")):
        return cache.folder("scratch")
    path = Path(configured).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = error.strerror or str(error)
        do = "Set SHAPELAKE_SCRATCH to a writable folder on a local disk"
        raise UsageError(f"scratch folder {path}", found, do) from error
    return path


@contextmanager
def own_scratch() -> Iterator[None]:
    """Make this process the owner of all leases taken inside the block, and release them on exit."""
    before = os.environ.get(DRIVER_ENV)
    os.environ[DRIVER_ENV] = f"{socket.gethostname()}:{os.getpid()}"
    try:
        yield
    finally:
        release_owned_by([current_owner()])  # downloads in flight when the run was stopped
        del os.environ[DRIVER_ENV]
        if before is not None:
            os.environ[DRIVER_ENV] = before


def reserve(folder: Path, size: int, budget: int | None) -> None:
    """Lease `size` bytes for `folder`; blocks until the live leases leave enough space.

    Args:
        budget: limit on the sum of all leases on this node in bytes; None = limited only by the disk.

    Raises:
        UsageError: `size` exceeds the budget, or the free disk space while no other lease exists.
        FetchError: not enough space within RESERVE_TIMEOUT_S; the timeout breaks deadlocks of waiting processes.
    """
    asked = f"{size:,} bytes in {folder.parent}"
    if budget is not None and size > budget:
        found = f"the disk budget of the node is {budget:,} bytes"
        raise UsageError(asked, found, f"Raise resources.scratch_gb to at least {-(-size // 10**8) / 10}")
    with Progress("Waiting for free disk space", None, "s") as progress:
        end = time.monotonic() + RESERVE_TIMEOUT_S
        while not _try_reserve(folder, size, budget):
            if time.monotonic() > end:
                found = f"not enough free space for {RESERVE_TIMEOUT_S:,.0f} s"
                raise FetchError(asked, found, "Free disk space, or run fewer sweeps at once")
            time.sleep(POLL_S)
            progress.advance(1)


def release_folder(folder: Path) -> None:
    """Remove a folder and its content, and then its lease."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        _sidecar_path(folder, "lease").unlink(missing_ok=True)


def release_owned_by(owners: Collection[str]) -> int:
    """Remove the folders that these drivers lease on this node; returns the number of folders."""
    folders = [lease.folder for lease in list_leases() if lease.owner in owners]
    for folder in folders:
        release_folder(folder)
    return len(folders)


def list_owners() -> list[str]:
    """Return the drivers with leases on this node, each as HOST:PID."""
    return sorted({lease.owner for lease in list_leases()})


def is_driver_dead(owner: str) -> bool:
    """Return True if the driver ran on this host and has ended; False for drivers of other hosts."""
    return _is_local(owner) and not is_process_alive(int(owner.rpartition(":")[2]))


def remove_stale() -> int:
    """Remove the folders of stale leases, except locked ones; returns the number of removed folders."""
    return sum(release_if_unlocked(lease.folder) for lease in list_leases() if lease.is_stale)


def list_leases() -> list[Lease]:
    leases = []
    for path in scratch_root().glob(".*.lease"):
        with suppress(FileNotFoundError):  # another process has just released it
            folder = path.with_name(path.name[1 : -len(".lease")])
            leases.append(Lease(folder=folder, **json.loads(path.read_bytes())))
    return leases


@contextmanager
def lock_folder(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive inter-process lock on `folder`; yields False if `wait` is False and the lock is taken.

    The last holder deletes the lock file, so a lock is valid only if its file still exists at the path.
    """
    file = _lock(folder, wait)
    try:
        yield file is not None
    finally:
        if file is not None:
            if not folder.exists():
                _sidecar_path(folder, "lock").unlink(missing_ok=True)
            file.close()


def _lock(folder: Path, wait: bool) -> IO[str] | None:
    path = _sidecar_path(folder, "lock")
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _try_reserve(folder: Path, size: int, budget: int | None) -> bool:
    with cache.hold_file_lock(scratch_root() / "leases"):
        others = [lease for lease in list_leases() if lease.folder != folder and not lease.is_stale]
        free = shutil.disk_usage(scratch_root()).free
        free -= sum(
            max(lease.bytes - cache.folder_bytes(lease.folder), 0) for lease in others
        )  # reserved, but not written yet
        needed = size - cache.folder_bytes(folder)
        if needed > free and not others:
            do = "Free disk space, or set SHAPELAKE_SCRATCH to a folder on a larger disk"
            raise UsageError(f"{needed:,} bytes in {folder.parent}", f"the disk has {free:,} bytes free", do)
        left = size if budget is None else budget - sum(lease.bytes for lease in others)
        if needed > free or size > left:
            return False
        lease = {"owner": current_owner(), "bytes": size, "since": time.time()}
        cache.write_atomic(_sidecar_path(folder, "lease"), json.dumps(lease).encode())
        return True


def release_if_unlocked(folder: Path) -> bool:
    """Release a folder unless another process locks it; returns True if it was released."""
    with lock_folder(folder, wait=False) as locked:
        if locked:
            release_folder(folder)
        return locked


def current_owner() -> str:
    return os.environ.get(DRIVER_ENV) or f"{socket.gethostname()}:{os.getpid()}"


def _is_local(owner: str) -> bool:
    return owner.rpartition(":")[0] == socket.gethostname()


def _sidecar_path(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def is_process_alive(pid: int) -> bool:
    """Return True if a process with this id exists on this host, under any user."""
    try:
        with suppress(PermissionError):  # another user's process
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
