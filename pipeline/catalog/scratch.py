"""Scratch space of a node, with one folder per run and downloaded checkpoint.

Each folder is leased by the driver of its run, and all leases together stay within a disk budget. A lease is a small
file beside its folder, which states the owner and the reserved bytes. Leases are made under one file lock, so that two
processes cannot both reserve the last free bytes.
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
"""Environment variable with HOST:PID of the driver. Leases belong to the driver, because it outlives its workers."""
POLL_S = 1.0
RESERVE_TIMEOUT_S = 3600.0
"""Seconds that `reserve` waits for space before it raises an error."""
STALE_AFTER_S = 86400.0
"""Age in seconds above which a lease from another host counts as stale: whether its driver lives cannot be checked."""


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
    """Return the folder $SHAPELAKE_SCRATCH or, if it is not set, `scratch` in the user's cache folder; create it if
    needed.

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
    """Lease `size` bytes for `folder`, after waiting until the other live leases leave enough space.

    Args:
        budget: limit on the sum of all leases on this node in bytes; None = limited only by the disk.

    Raises:
        UsageError: `size` exceeds the budget, or it exceeds the free disk space while no other lease exists.
        FetchError: there was not enough space within RESERVE_TIMEOUT_S. This also ends a deadlock of processes that
            wait for each other.
    """
    asked = f"reservation of {size:,} bytes in {folder.parent}"
    if budget is not None and size > budget:
        found = f"the disk budget of the node is {budget:,} bytes"
        raise UsageError(asked, found, f"Raise resources.scratch_gb to at least {-(-size // 10**8) / 10}")
    with Progress("Waiting for free disk space", None, "s") as progress:
        end = time.monotonic() + RESERVE_TIMEOUT_S
        while not _try_reserve(folder, size, budget):
            if time.monotonic() > end:
                found = f"there was not enough free space for {RESERVE_TIMEOUT_S:,.0f} s"
                raise FetchError(asked, found, "Free disk space, or run fewer sweeps on this node at a time")
            time.sleep(POLL_S)
            progress.advance(1)


def release_folder(folder: Path) -> None:
    """Remove a folder and its content, and then its lease; the lease stays if the folder cannot be removed."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        _sidecar_path(folder, "lease").unlink(missing_ok=True)


def release_owned_by(owners: Collection[str]) -> int:
    """Remove the folders that these drivers lease on this node; return the number of these folders."""
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
    """Remove the folders of stale leases, except folders that are locked; return the number of removed folders."""
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
    """Hold an exclusive lock on `folder` between processes, and yield True.

    If `wait` is False and another process holds the lock, yield False without the lock. A holder deletes the lock file
    if the folder no longer exists; a lock is therefore valid only if its file still exists at the path.
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
            raise UsageError(
                f"reservation of {needed:,} bytes in {folder.parent}", f"the disk has {free:,} bytes free", do
            )
        left = size if budget is None else budget - sum(lease.bytes for lease in others)
        if needed > free or size > left:
            return False
        lease = {"owner": current_owner(), "bytes": size, "since": time.time()}
        cache.write_atomic(_sidecar_path(folder, "lease"), json.dumps(lease).encode())
        return True


def release_if_unlocked(folder: Path) -> bool:
    """Remove a folder and its lease unless another process locks the folder; return True if it was not locked."""
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
