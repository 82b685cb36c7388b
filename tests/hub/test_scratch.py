"""Scratch of a node: disk budget, one download per checkpoint at a time, and cleanup of stale leases."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest

from pipeline.catalog import fetch as fetching
from pipeline.catalog import scratch
from pipeline.catalog.fetch import fetch_checkpoint
from pipeline.catalog.scratch import remove_stale
from pipeline.errors import UsageError
from pipeline.spec import Checkpoint
from tests.support.remote_checkpoint import FILES, RUN, SIZE, bytes_sent, checkpoint, leftovers

pytestmark = pytest.mark.usefixtures("short_waits")


def test_a_checkpoint_beyond_the_budget_names_both_numbers(hub):
    with pytest.raises(UsageError, match=rf"{SIZE:,} bytes in .* {SIZE - 1:,} bytes\.\n.*scratch_gb"):
        fetch_checkpoint(checkpoint(hub), RUN, SIZE - 1)
    assert not hub.requests


def test_a_checkpoint_beyond_the_free_disk_names_both_numbers(hub, monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345))
    with pytest.raises(UsageError, match=rf"{SIZE:,} bytes in .* the disk has 12,345 bytes free"):
        fetch_checkpoint(checkpoint(hub), RUN)
    assert leftovers() == []


def test_room_that_is_leased_but_not_yet_filled_is_no_room(hub, monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * SIZE - 1))
    scratch.reserve(scratch.scratch_root() / "other", SIZE, None)
    assert not scratch._try_reserve(scratch.scratch_root() / "mine", SIZE, None)
    scratch.release_folder(scratch.scratch_root() / "other")
    assert scratch._try_reserve(scratch.scratch_root() / "mine", SIZE, None)


CHILD = """
import sys, time
from pipeline.catalog import fetch as fetching
from pipeline.catalog import scratch
from pipeline.catalog.fetch import fetch_temporarily
from pipeline.spec import Checkpoint
scratch.POLL_S = 0.02
with fetch_temporarily(Checkpoint.model_validate_json(sys.argv[1]), "run", int(sys.argv[2]) or None) as here:
    print(here.path, flush=True)
    time.sleep(float(sys.argv[3]))
"""


def child(wanted: Checkpoint, budget: int = 0, work_s: float = 0.0) -> subprocess.Popen:
    """Start a process that fetches the checkpoint, sleeps `work_s` seconds and cleans up."""
    words = [sys.executable, "-c", CHILD, wanted.model_dump_json(), str(budget), str(work_s)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def downloads_on_disk() -> set[str]:
    """Return the checkpoint folders with weights on disk; files that vanish during the walk do not count."""
    walked = [Path(base, name) for base, _, names in os.walk(scratch.scratch_root()) for name in names]
    large = [path for path in walked if path.suffix in (".safetensors", ".incomplete") and path.exists()]
    return {path.relative_to(scratch.scratch_root()).parts[0] for path in large}


def test_with_room_for_one_checkpoint_three_that_are_wanted_take_turns(hub):
    steps = [checkpoint(hub, f"step{n}", {**FILES, "config.json": b"%d" % n}) for n in range(3)]
    budget = max(step.remote.total_bytes for step in steps)
    running, most = [child(step, budget, work_s=0.3) for step in steps], 0
    while any(process.poll() is None for process in running):
        most = max(most, len(downloads_on_disk()))
        time.sleep(0.005)
    assert [process.wait() for process in running] == [0, 0, 0], [process.stderr.read() for process in running]
    assert most == 1
    assert leftovers() == []


def test_who_wants_what_another_is_fetching_waits_for_it(hub):
    fetch_checkpoint(checkpoint(hub, "step0"), RUN)  # warm-up: the HTTP client is created at its first use
    hub.requests.clear()
    wanted, done = checkpoint(hub), Event()
    second = Thread(target=lambda: (fetch_checkpoint(wanted, RUN), done.set()))
    with scratch.lock_folder(fetching.scratch_folder(wanted, RUN)):
        second.start()
        assert not done.wait(0.2)
        assert not hub.requests
    assert done.wait(10)
    second.join()
    fetch_checkpoint(wanted, RUN)
    assert bytes_sent(hub, "*") == SIZE


def test_who_waited_for_a_lock_that_went_with_its_folder_waits_for_the_next(hub):
    folder, held, done = scratch.scratch_root() / "folder", Event(), Event()

    def second() -> None:
        with scratch.lock_folder(folder):
            held.set()
            done.wait(10)

    waiting = Thread(target=second)
    with scratch.lock_folder(folder):
        waiting.start()
        time.sleep(0.1)
        assert not held.is_set()
    assert held.wait(10)
    with scratch.lock_folder(folder, wait=False) as locked:
        assert not locked
    done.set()
    waiting.join()


def test_a_killed_download_leaves_a_folder_that_the_next_sweep_removes(hub):
    hub.fail("/cdn/*", cut=100_000, stall=30.0, times=None)
    process = child(wanted := checkpoint(hub))
    folder = fetching.scratch_folder(wanted, "run")
    until(lambda: any(folder.rglob("*.incomplete")))
    assert remove_stale() == 0  # the owner is alive
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert folder.exists()
    assert remove_stale() == 1
    assert remove_stale() == 0
    assert leftovers() == []


def test_a_killed_download_holds_neither_budget_nor_disk(hub):
    hub.fail("/cdn/*", stall=30.0)
    process = child(checkpoint(hub, "step1"), SIZE)
    until(lambda: hub.asked("/cdn/*"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = fetch_checkpoint(checkpoint(hub, "step2"), RUN, SIZE)
    assert [path for path in scratch.scratch_root().iterdir() if path.is_dir()] == [folder]


def lease_of(folder: Path, owner: str, age_s: float) -> None:
    folder.mkdir()
    lease = {"owner": owner, "bytes": 1, "since": time.time() - age_s}
    (folder.parent / f".{folder.name}.lease").write_text(json.dumps(lease))


def test_the_folder_of_another_hosts_driver_stays_for_a_day(hub):
    root = scratch.scratch_root()
    lease_of(root / "young", "another-host:1", 0.9 * scratch.STALE_AFTER_S)
    lease_of(root / "old", "another-host:1", 1.1 * scratch.STALE_AFTER_S)
    assert remove_stale() == 1
    assert sorted(leftovers()) == [".young.lease", "young"]


def test_a_folder_in_use_is_not_swept(hub):
    folder = scratch.scratch_root() / "used"
    lease_of(folder, "another-host:1", 2 * scratch.STALE_AFTER_S)
    with scratch.lock_folder(folder):
        assert remove_stale() == 0
        assert folder.exists()
    assert remove_stale() == 1


def test_a_fetch_in_a_worker_is_leased_to_the_living_driver(hub, monkeypatch):
    monkeypatch.setenv(scratch.DRIVER_ENV, f"{socket.gethostname()}:{os.getppid()}")
    fetch_checkpoint(checkpoint(hub), RUN)
    (lease,) = scratch.list_leases()
    assert lease.owner.endswith(f":{os.getppid()}")
    assert remove_stale() == 0
    monkeypatch.setenv(scratch.DRIVER_ENV, f"{socket.gethostname()}:{dead_process()}")
    fetch_checkpoint(checkpoint(hub, "step2"), RUN)
    assert remove_stale() == 1


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leases_are_removed_by_owner_and_only_local_drivers_count_as_dead(hub):
    """Drivers of other hosts cannot be checked; `release_owned_by` works for any owner."""
    here, pid = socket.gethostname(), dead_process()
    dead, living, stranger = f"{here}:{pid}", f"{here}:{os.getpid()}", f"another-host:{pid}"
    for name, owner in {"a": dead, "b": living, "c": stranger, "d": living}.items():
        lease_of(scratch.scratch_root() / name, owner, 1.0)
    assert scratch.list_owners() == sorted([dead, living, stranger])
    assert [scratch.is_driver_dead(owner) for owner in (dead, living, stranger)] == [True, False, False]
    assert scratch.release_owned_by([dead, living]) == 3
    assert sorted(leftovers()) == [".c.lease", "c"]
