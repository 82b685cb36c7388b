"""Download by commit: every file checked, resumed where it broke off, within the disk budget, and nothing left."""

import errno
import hashlib
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
from pipeline.catalog import scratch, wire
from pipeline.catalog.fetch import discard, fetch, fetched, sweep
from pipeline.errors import ChangedError, CheckpointError, FetchError, UsageError
from pipeline.spec import Checkpoint, HubFile, Remote
from tests.hub.fake import FakeHub

REPO = "org/model"
RUN = "2026-01-01T00-00-00Z-abcd"
FILES = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": bytes(range(256)) * 4096}
SIZE = sum(map(len, FILES.values()))
WEIGHTS = "*/model.safetensors"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(wire, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(scratch, "POLL_S", 0.02)
    # The library waits 1 s before it resumes.
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: time.sleep(0.01)))


def checkpoint(hub: FakeHub, branch: str = "step1", files: dict[str, bytes] = FILES, subfolder: str = "") -> Checkpoint:
    """A checkpoint of the fake Hub, with files beside it that nobody wants."""
    inside = {f"{subfolder}/{name}" if subfolder else name: data for name, data in files.items()}
    sha = hub.repo(REPO).commit({**inside, "optimizer.bin": b"o" * 5000, "README.md": branch.encode()}, branch)
    listed = tuple(HubFile(path=n, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in files.items())
    remote = Remote(repo=REPO, commit=sha, files=listed, subfolder=subfolder)
    return Checkpoint(
        **dict(model=REPO, revision=branch, path="", tokenizer_path="", remote=remote, kinds=("decoder",)),
        **dict(weights_digest="w", config_digest="c", tokenizer_digest="t"),
    )


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder that are no book-keeping."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".")}


def left() -> list[str]:
    """What there is in the scratch, but for the lock that lasts."""
    return [path.name for path in scratch.root().iterdir() if path.name != ".leases.lock"]


def sent(hub: FakeHub, pattern: str) -> int:
    return sum(request.sent for request in hub.asked(pattern, "GET"))


def test_only_the_wanted_files_are_downloaded_and_nothing_is_left(hub):
    with fetched(wanted := checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
        assert here.tokenizer_path == here.path
        assert here == wanted.model_copy(update={"path": here.path, "tokenizer_path": here.path})
    assert left() == []
    assert not hub.asked("*optimizer*")
    assert sent(hub, "*") == SIZE


def test_the_folder_goes_when_the_work_fails(hub):
    with pytest.raises(ZeroDivisionError), fetched(checkpoint(hub), RUN):
        raise ZeroDivisionError
    assert left() == []


def test_a_local_checkpoint_is_given_as_it_is(hub):
    local = checkpoint(hub).model_copy(update={"remote": None, "path": "/somewhere"})
    with fetched(local, RUN) as here:
        assert here is local
    assert not hub.requests


def test_a_sub_folder_is_the_checkpoints_folder(hub):
    with fetched(checkpoint(hub, subfolder="global/step_7"), RUN) as here:
        assert here.path.endswith("/global/step_7")
        assert files_in(Path(here.path)) == FILES


def test_a_tokenizer_of_another_repository_has_a_folder_of_its_own(hub):
    words = b'{"version": "1.0"}'
    sha = hub.repo("org/final").commit({"tokenizer.json": words})
    listed = HubFile(path="tokenizer.json", size=len(words), sha256=hashlib.sha256(words).hexdigest())
    other = Remote(repo="org/final", commit=sha, files=(listed,))
    with fetched(checkpoint(hub).model_copy(update={"tokenizer_remote": other}), RUN) as here:
        assert files_in(Path(here.tokenizer_path)) == {"tokenizer.json": words}
        assert files_in(Path(here.path)) == FILES


def test_what_was_fetched_ahead_is_used_without_a_request(hub):
    folder = fetch(wanted := checkpoint(hub), RUN)
    asked = len(hub.requests)
    assert fetch(wanted, RUN) == folder == fetching.scratch(wanted, RUN)
    with fetched(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES
    assert len(hub.requests) == asked
    assert left() == []


def test_what_was_fetched_for_nothing_is_discarded(hub):
    fetch(wanted := checkpoint(hub), RUN)
    discard(wanted, RUN)
    discard(wanted, RUN)
    assert left() == []


def test_two_runs_and_two_checkpoints_have_folders_of_their_own(hub):
    one, two = checkpoint(hub, "step1"), checkpoint(hub, "step2")
    folders = {fetching.scratch(one, RUN), fetching.scratch(two, RUN), fetching.scratch(one, "another")}
    assert len(folders) == 3


def test_a_truncated_body_is_resumed_where_it_broke_off(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    cut = len(FILES["model.safetensors"]) // 2
    hub.fail(WEIGHTS, cut=cut, times=2)
    with fetched(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
    ranges = [request.headers.get("range") for request in hub.asked("/cdn/*", "GET")]
    assert ranges[0] is None
    assert cut - 1000 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= cut
    assert sent(hub, WEIGHTS) < len(FILES["model.safetensors"]) + 2 * 1000


def test_one_flipped_bit_is_caught_and_the_file_fetched_again(hub):
    hub.fail(WEIGHTS, flip=70_000)
    with fetched(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
    assert sent(hub, WEIGHTS) == 2 * len(FILES["model.safetensors"])


def test_a_bit_that_stays_flipped_is_an_error_of_the_checkpoint(hub):
    hub.fail(WEIGHTS, flip=70_000, times=None)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*flipped bit"):
        fetch(checkpoint(hub), RUN)
    assert len(hub.asked("/cdn/*", "GET")) == 2
    assert left() == []


def test_a_small_file_too_is_checked(hub):
    hub.fail("*/config.json", flip=2, times=None, method="GET")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        fetch(checkpoint(hub), RUN)


def test_a_stall_is_resumed_and_one_without_end_times_out(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.fail(WEIGHTS, cut=1000, stall=30.0)
    with fetched(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
    hub.fail("/cdn/*", cut=1000, stall=30.0, times=None)
    started = time.monotonic()
    with pytest.raises(FetchError, match="ReadTimeout"):
        fetch(checkpoint(hub), RUN)
    assert time.monotonic() - started < 5.0
    assert left() == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(("status", "headers"), [(503, {}), (429, {"RateLimit": '"resolvers";r=0;t=0'})])
def test_a_busy_hub_delays_a_download(hub, method, status, headers):
    hub.fail(WEIGHTS, status=status, headers=headers, times=2, method=method)
    with fetched(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_hub_that_stays_busy_fails_the_download_for_now(hub, method):
    hub.fail(WEIGHTS, status=503, times=None, method=method)
    with pytest.raises(FetchError, match="503"):
        fetch(checkpoint(hub), RUN)
    assert len(hub.asked(WEIGHTS, method)) == wire.TRIES
    assert left() == []


def test_a_branch_that_moves_after_planning_changes_nothing(hub):
    wanted = checkpoint(hub)
    hub.repo(REPO).commit({"model.safetensors": b"other"}, "step1")
    hub.repo(REPO).delete("step1")
    with fetched(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES


def test_a_planned_commit_that_is_gone_has_to_be_planned_again(hub):
    wanted = checkpoint(hub)
    hub.repo(REPO).forget(wanted.remote.commit)
    with pytest.raises(ChangedError, match="no longer on the Hub\\.\nPlan again"):
        fetch(wanted, RUN)
    assert left() == []


def test_a_gated_repository_is_refused_in_one_request(hub):
    wanted = checkpoint(hub)
    hub.repo(REPO).gated = True
    with pytest.raises(UsageError, match="gated"):
        fetch(wanted, RUN)
    assert len(hub.requests) == 1


def test_a_renamed_repository_can_still_be_fetched(hub):
    wanted = checkpoint(hub)
    hub.rename(REPO, "new-org/model")
    with fetched(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES


def in_the_users_cache(wanted: Checkpoint) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, revision=wanted.remote.commit, allow_patterns=list(FILES))


def test_files_of_the_users_cache_are_linked_and_stay_there(hub, monkeypatch):
    in_the_users_cache(wanted := checkpoint(hub))
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for _ in range(2):
        with fetched(wanted, RUN) as here:
            assert files_in(Path(here.path)) == FILES
    assert len(hub.requests) == asked


def test_links_that_a_killed_fetch_left_are_made_again(hub, tmp_path):
    in_the_users_cache(wanted := checkpoint(hub))
    left_over = fetching.scratch(wanted, RUN) / "path"
    left_over.mkdir(parents=True)
    (left_over / "config.json").symlink_to(tmp_path / "gone")
    (left_over / "model.safetensors").write_bytes(b"half")
    with fetched(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES
    assert left() == []


def test_a_damaged_copy_in_the_users_cache_is_not_taken(hub):
    in_the_users_cache(wanted := checkpoint(hub))
    (blob,) = [path for path in Path(os.environ["HF_HOME"]).rglob("blobs/*") if path.stat().st_size > 1000]
    blob.chmod(0o600)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with fetched(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES


def test_offline_without_the_files_is_an_error(hub, monkeypatch):
    wanted = checkpoint(hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        fetch(wanted, RUN)
    assert not hub.requests


def test_a_full_disk_is_a_failure_that_may_pass(hub, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching, "hf_hub_download", full)
    with pytest.raises(FetchError, match="No space left on device"):
        fetch(checkpoint(hub), RUN)
    assert left() == []


def test_a_checkpoint_beyond_the_budget_names_both_numbers(hub):
    with pytest.raises(UsageError, match=rf"{SIZE:,} bytes in .* the budget of the node is {SIZE - 1:,} bytes"):
        fetch(checkpoint(hub), RUN, SIZE - 1)
    assert not hub.requests


def test_a_checkpoint_beyond_the_free_disk_names_both_numbers(hub, monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345))
    with pytest.raises(UsageError, match=rf"{SIZE:,} bytes in .* the disk has 12,345 bytes free"):
        fetch(checkpoint(hub), RUN)
    assert left() == []


def test_room_that_is_leased_but_not_yet_filled_is_no_room(hub, monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * SIZE - 1))
    scratch.reserve(scratch.root() / "other", SIZE, None)
    assert not scratch._reserved(scratch.root() / "mine", SIZE, None)
    scratch.release(scratch.root() / "other")
    assert scratch._reserved(scratch.root() / "mine", SIZE, None)


CHILD = """
import sys, time
from pipeline.catalog import scratch
from pipeline.catalog.fetch import fetched
from pipeline.spec import Checkpoint
scratch.POLL_S = 0.02
with fetched(Checkpoint.model_validate_json(sys.argv[1]), "run", int(sys.argv[2]) or None) as here:
    print(here.path, flush=True)
    time.sleep(float(sys.argv[3]))
"""


def child(wanted: Checkpoint, budget: int = 0, work_s: float = 0.0) -> subprocess.Popen:
    """A process of its own that fetches, works for a while and cleans up."""
    words = [sys.executable, "-c", CHILD, wanted.model_dump_json(), str(budget), str(work_s)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def downloads_on_disk() -> set[str]:
    """Checkpoints of which there is a byte: what was seen on a walk and is still there after it was there at once."""
    seen = [Path(base, name) for base, _, names in os.walk(scratch.root()) for name in names]
    large = [path for path in seen if path.suffix in (".safetensors", ".incomplete") and path.exists()]
    return {path.relative_to(scratch.root()).parts[0] for path in large}


def test_with_room_for_one_checkpoint_three_that_are_wanted_take_turns(hub):
    steps = [checkpoint(hub, f"step{n}", {**FILES, "config.json": b"%d" % n}) for n in range(3)]
    budget = max(step.remote.bytes for step in steps)
    running, most = [child(step, budget, work_s=0.3) for step in steps], 0
    while any(process.poll() is None for process in running):
        most = max(most, len(downloads_on_disk()))
        time.sleep(0.005)
    assert [process.wait() for process in running] == [0, 0, 0], [process.stderr.read() for process in running]
    assert most == 1
    assert left() == []


def test_who_wants_what_another_is_fetching_waits_for_it(hub):
    fetch(checkpoint(hub, "step0"), RUN)  # the client is made at its first use, which takes its time
    hub.requests.clear()
    wanted, done = checkpoint(hub), Event()
    second = Thread(target=lambda: (fetch(wanted, RUN), done.set()))
    with scratch.locked(fetching.scratch(wanted, RUN)):
        second.start()
        assert not done.wait(0.2)
        assert not hub.requests
    assert done.wait(10)
    second.join()
    fetch(wanted, RUN)
    assert sent(hub, "*") == SIZE


def test_who_waited_for_a_lock_that_went_with_its_folder_waits_for_the_next(hub):
    folder, held, done = scratch.root() / "folder", Event(), Event()

    def second() -> None:
        with scratch.locked(folder):
            held.set()
            done.wait(10)

    waiting = Thread(target=second)
    with scratch.locked(folder):
        waiting.start()
        time.sleep(0.1)
        assert not held.is_set()
    assert held.wait(10)
    with scratch.locked(folder, wait=False) as is_ours:
        assert not is_ours
    done.set()
    waiting.join()


def test_a_killed_download_leaves_a_folder_that_the_next_sweep_removes(hub):
    hub.fail("/cdn/*", cut=100_000, stall=30.0, times=None)
    process = child(wanted := checkpoint(hub))
    folder = fetching.scratch(wanted, "run")
    until(lambda: any(folder.rglob("*.incomplete")))
    assert sweep() == 0  # its owner lives
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert folder.exists()
    assert sweep() == 1
    assert sweep() == 0
    assert left() == []


def test_a_killed_download_holds_neither_budget_nor_disk(hub):
    hub.fail("/cdn/*", stall=30.0)
    process = child(checkpoint(hub, "step1"), SIZE)
    until(lambda: hub.asked("/cdn/*"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = fetch(checkpoint(hub, "step2"), RUN, SIZE)
    assert [path for path in scratch.root().iterdir() if path.is_dir()] == [folder]


def lease_of(folder: Path, owner: str, age_s: float) -> None:
    folder.mkdir()
    lease = {"owner": owner, "bytes": 1, "since": time.time() - age_s}
    (folder.parent / f".{folder.name}.lease").write_text(json.dumps(lease))


def test_the_folder_of_another_hosts_driver_stays_for_a_day(hub):
    root = scratch.root()
    lease_of(root / "young", "another-host:1", 0.9 * scratch.ABANDONED_S)
    lease_of(root / "old", "another-host:1", 1.1 * scratch.ABANDONED_S)
    assert sweep() == 1
    assert sorted(left()) == [".young.lease", "young"]


def test_a_folder_in_use_is_not_swept(hub):
    folder = scratch.root() / "used"
    lease_of(folder, "another-host:1", 2 * scratch.ABANDONED_S)
    with scratch.locked(folder):
        assert sweep() == 0
        assert folder.exists()
    assert sweep() == 1


def test_a_fetch_in_a_worker_is_leased_to_the_living_driver(hub, monkeypatch):
    monkeypatch.setenv(scratch.OWNER, f"{socket.gethostname()}:{os.getppid()}")
    fetch(checkpoint(hub), RUN)
    (lease,) = scratch.leases()
    assert lease.owner.endswith(f":{os.getppid()}")
    assert sweep() == 0
    monkeypatch.setenv(scratch.OWNER, f"{socket.gethostname()}:{dead_process()}")
    fetch(checkpoint(hub, "step2"), RUN)
    assert sweep() == 1


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_download_is_shown(hub, monkeypatch, capfd):
    monkeypatch.setattr("pipeline.progress.PATIENCE_S", 0.0)
    fetch(checkpoint(hub), RUN)
    assert f"Downloading {REPO}@step1: " in (said := capfd.readouterr().err)
    assert f" of {SIZE:,} bytes" in said


def test_what_dead_and_ending_drivers_hold_is_told_apart_and_removed_by_owner(hub):
    """A driver sees of drivers of its own machine whether they live; what they hold on any node goes by their name."""
    here, child = socket.gethostname(), subprocess.Popen(["true"])
    child.wait()
    dead, living, stranger = f"{here}:{child.pid}", f"{here}:{os.getpid()}", f"another-host:{child.pid}"
    for name, owner in {"a": dead, "b": living, "c": stranger, "d": living}.items():
        lease_of(scratch.root() / name, owner, 1.0)
    assert scratch.owners_here() == sorted([dead, living, stranger])
    assert [scratch.is_dead(owner) for owner in (dead, living, stranger)] == [True, False, False]
    assert scratch.abandon([dead, living]) == 3
    assert sorted(left()) == [".c.lease", "c"]
