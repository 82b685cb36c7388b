"""A node's scratch: one folder per run and checkpoint, leased by a living driver, within a budget of bytes.

A lease is a small file beside its folder: who holds it, and how many bytes it may fill. All leases are read and written
under one lock, so that two processes cannot both take the last bytes.
"""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from pipeline import cache
from pipeline.errors import FetchError, UsageError
from pipeline.progress import Progress

DRIVER_ENV = "SHAPELAKE_DRIVER"
"""Environment variable with HOST:PID of the driver, which outlives the workers that fetch for it."""
POLL_S = 1.0
RESERVE_TIMEOUT_S = 3600.0
STALE_AFTER_S = 86400.0
"""Age at which the lease of another host's driver, of which nothing can be seen from here, counts as stale."""


class Lease(NamedTuple):
    """A folder of the scratch and who holds it."""

    folder: Path
    owner: str
    """HOST:PID."""
    bytes: int
    since: float
    """Seconds since 1970."""

    @property
    def is_stale(self) -> bool:
        """Its driver is dead, or has not been heard of for a day from another host."""
        return is_driver_dead(self.owner) or (not _is_here(self.owner) and time.time() - self.since > STALE_AFTER_S)

    @property
    def unwritten_bytes(self) -> int:
        """Bytes that it may still write."""
        return max(self.bytes - _size(self.folder), 0)


def scratch_root() -> Path:
    """$SHAPELAKE_SCRATCH, or `scratch` in the user's cache folder.

    Raises:
        UsageError: it cannot be made.
    """
    if not (named := os.environ.get("SHAPELAKE_SCRATCH")):
        return cache.folder("scratch")
    path = Path(named).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = error.strerror or str(error)
        raise UsageError(
            f"scratch folder {path}", found, "Set SHAPELAKE_SCRATCH to a folder on a local disk"
        ) from error
    return path


@contextmanager
def own_scratch() -> Iterator[None]:
    """What this process and its workers fetch inside the block belongs to this process, and goes with the block."""
    before = os.environ.get(DRIVER_ENV)
    os.environ[DRIVER_ENV] = f"{socket.gethostname()}:{os.getpid()}"
    try:
        yield
    finally:
        release_owned_by([current_owner()])  # what was still being fetched when the run was stopped
        del os.environ[DRIVER_ENV]
        if before is not None:
            os.environ[DRIVER_ENV] = before


def reserve(folder: Path, size: int, budget: int | None) -> None:
    """Lease `size` bytes for `folder`, once the living leases leave room for them.

    Args:
        budget: bytes that all leases of this node may hold together; null = as much as the disk has.

    Raises:
        UsageError: more bytes than the budget, or than the disk has with no lease left to end.
        FetchError: no room for an hour; those who hold it may be waiting for the caller.
    """
    if budget is not None and size > budget:
        raise _too_large(folder, size, f"the budget of the node is {budget:,} bytes", "Raise the disk budget")
    with Progress("Waiting for room on the disk", None, "s") as progress:
        end = time.monotonic() + RESERVE_TIMEOUT_S
        while not _try_reserve(folder, size, budget):
            if time.monotonic() > end:
                raise FetchError(f"{size:,} bytes in {folder.parent}", "no room for an hour", "Try again later")
            time.sleep(POLL_S)
            progress.advance(1)


def release_folder(folder: Path) -> None:
    """Remove a folder, whatever is in it; its lease stays for as long as a byte of it does."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        _sidecar_path(folder, "lease").unlink(missing_ok=True)


def release_owned_by(owners: Collection[str]) -> int:
    """Remove what these drivers have on this node; returns how many folders there were."""
    theirs = [lease.folder for lease in list_leases() if lease.owner in owners]
    for folder in theirs:
        release_folder(folder)
    return len(theirs)


def list_owners() -> list[str]:
    """The drivers that have something on this node, each as HOST:PID."""
    return sorted({lease.owner for lease in list_leases()})


def is_driver_dead(owner: str) -> bool:
    """Whether the driver was one of this machine and has ended; of another machine's that cannot be seen."""
    return _is_here(owner) and not is_process_alive(int(owner.rpartition(":")[2]))


def remove_stale() -> int:
    """Remove the folders of dead drivers; returns how many there were. A folder in use is left alone."""
    return sum(_release_if_unlocked(lease) for lease in list_leases() if lease.is_stale)


def list_leases() -> list[Lease]:
    """All leases of this node."""
    return [lease for note in scratch_root().glob(".*.lease") if (lease := _read(note))]


@contextmanager
def lock_folder(folder: Path, wait: bool = True) -> Iterator[bool]:
    """One process at a time works in `folder`; without `wait`, false where another one does.

    The lock's file goes with the last holder, so it counts only while it is still the one at its place.
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
    place = _sidecar_path(folder, "lock")
    while True:
        file = place.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if _is_at(file.fileno(), place):
            return file
        file.close()


def _try_reserve(folder: Path, size: int, budget: int | None) -> bool:
    with cache.hold_file_lock(scratch_root() / "leases"):
        others = [lease for lease in list_leases() if lease.folder != folder and not lease.is_stale]
        free = shutil.disk_usage(scratch_root()).free - sum(lease.unwritten_bytes for lease in others)
        needed = size - _size(folder)
        if needed > free and not others:
            raise _too_large(folder, needed, f"the disk has {free:,} bytes free", "Free some, or set SHAPELAKE_SCRATCH")
        left = size if budget is None else budget - sum(lease.bytes for lease in others)
        if needed > free or size > left:
            return False
        lease = {"owner": current_owner(), "bytes": size, "since": time.time()}
        cache.write_atomic(_sidecar_path(folder, "lease"), json.dumps(lease).encode())
        return True


def _too_large(folder: Path, size: int, found: str, do: str) -> UsageError:
    return UsageError(f"{size:,} bytes in {folder.parent}", found, do)


def _release_if_unlocked(lease: Lease) -> bool:
    with lock_folder(lease.folder, wait=False) as is_ours:
        if is_ours:
            release_folder(lease.folder)
        return is_ours


def current_owner() -> str:
    return os.environ.get(DRIVER_ENV) or f"{socket.gethostname()}:{os.getpid()}"


def _is_here(owner: str) -> bool:
    return owner.rpartition(":")[0] == socket.gethostname()


def _sidecar_path(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _read(note: Path) -> Lease | None:
    """Null where it has just been released."""
    try:
        return Lease(folder=note.with_name(note.name[1 : -len(".lease")]), **json.loads(note.read_bytes()))
    except FileNotFoundError:
        return None


def is_process_alive(pid: int) -> bool:
    """Whether there is such a process on this host, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but alive
        return True
    return True


def _size(folder: Path) -> int:
    """Bytes of the files below `folder`; what a link points at lies elsewhere."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except FileNotFoundError:  # a download that was just moved into place
                continue
    return total


def _is_at(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False
