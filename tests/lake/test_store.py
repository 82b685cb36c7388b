"""The store: one winner per name, whole files or none, nothing outside the root."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from datetime import timedelta
from io import BytesIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import LakeError, UsageError
from pipeline.lake import Lake, to_table
from pipeline.lake.gc import collect_garbage
from pipeline.lake.local_store import LocalStore
from pipeline.lake.open_store import open_store
from pipeline.lake.store import STAGING, STAGING_MAX_AGE_S
from pipeline.lake.store_check import check_store
from pipeline.lake.verify import verify_lake
from tests.lake import killed, made

ROOT = Path(__file__).resolve().parents[2]


def _race(root: Path, writer: int, start: Barrier, won: Connection) -> None:
    store = LocalStore(root)
    start.wait()
    won.send([store.put_new(f"cells/{key}", b"%d" % writer * 10**6) for key in range(60)])


def test_of_six_writers_of_the_same_sixty_keys_exactly_one_wins_each(tmp_path):
    spawn = get_context("spawn")
    start, pipes = spawn.Barrier(6), [spawn.Pipe() for _ in range(6)]
    writers = [spawn.Process(target=_race, args=(tmp_path, n, start, pipe[1])) for n, pipe in enumerate(pipes)]
    for writer in writers:
        writer.start()
    won = [pipe[0].recv() for pipe in pipes]
    for writer in writers:
        writer.join()
    assert [sum(key) for key in zip(*won, strict=True)] == [1] * 60
    assert sum(any(one) for one in won) > 1, "they did race"
    store = LocalStore(tmp_path)
    for key in range(60):
        winner = next(writer for writer in range(6) if won[writer][key])
        assert store.get(f"cells/{key}") == b"%d" % winner * 10**6, "the file is the winner's"
    assert store.list(STAGING) == []


WRITER = """
import sys
from pathlib import Path
from pipeline.lake.local_store import LocalStore
store = LocalStore(Path(sys.argv[1]))
for i in range(10**6):
    store.put_new(f"cells/v1/{sys.argv[2]}-{i}", bytes(2**23))
    print(i, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_no_partial_file(tmp_path):
    """10 writers, each killed within its first 200 ms of writing; staging alone may hold what they left."""
    rng = random.Random(0)
    for n in range(10):
        words = [sys.executable, "-c", WRITER, str(tmp_path), str(n)]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.2))
            writer.send_signal(signal.SIGKILL)
    store = LocalStore(tmp_path)
    sizes = {store.path(key).stat().st_size for key in store.list("cells/v1")}
    assert sizes == {2**23}
    assert len({key.split("-")[0] for key in store.list("cells/v1")}) == 10


def test_a_writer_killed_before_each_of_its_system_calls_leaves_the_whole_file_or_none(tmp_path):
    moments = killed.moments("put", tmp_path)
    found = [LocalStore(tmp_path / str(moment)).list("cells/v1") for moment in range(moments + 1)]
    assert found == sorted(found), "once there, it is there at every later moment"
    assert [] in found[:-1]
    assert ["cells/v1/a"] in found[:-1]
    for root in tmp_path.iterdir():
        assert all(len(LocalStore(root).get(key)) == 999 for key in LocalStore(root).list("cells/v1"))


def test_a_commit_killed_before_each_of_its_system_calls_leaves_a_sound_lake(tmp_path):
    """Its cell is there or not, nothing is wrong, what was left in staging is collected, and a rerun commits it."""
    wanted = killed.cell()
    table = to_table(made.rows(wanted), {})
    moments, there, left = killed.moments("commit", tmp_path), [], []
    for moment in range(moments + 1):
        lake = Lake(tmp_path / str(moment))
        there.append(lake.committed_cell_ids() == {wanted.id})
        left.append(bool(lake.store.list(STAGING)))
        assert verify_lake(lake) == []
        collect_garbage(lake, timedelta(0), dry_run=False)
        assert lake.store.list(STAGING) == []
        assert lake.commit(wanted.id, wanted.checkpoint.model_key, table) is not there[-1]
        (key,) = lake.cell_files().values()
        assert pq.read_table(BytesIO(lake.store.get(key))).equals(table)
        assert verify_lake(lake) == []
    assert there == sorted(there), "once there, it is there at every later moment"
    assert (there[0], there[-2], left[-1]) == (False, True, False)
    assert sum(left) > 10


def test_what_killed_writers_left_is_tidied_after_a_day_and_not_before(tmp_path):
    store = LocalStore(tmp_path)
    store.put_new("a", b"")
    old, new = tmp_path / STAGING / "old", tmp_path / STAGING / "new"
    for path in (old, new):
        path.write_bytes(b"partial")
    os.utime(old, (time.time() - STAGING_MAX_AGE_S - 60,) * 2)
    assert store.remove_stale_staging() == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_a_file_is_never_replaced_and_a_pointer_always(tmp_path):
    store = LocalStore(tmp_path)
    assert store.put_new("a/b", b"first")
    assert not store.put_new("a/b", b"second")
    assert store.get("a/b") == b"first"
    store.put_or_replace("a/p", b"first")
    store.put_or_replace("a/p", b"second")
    assert store.get("a/p") == b"second"
    assert store.list("a") == ["a/b", "a/p"]
    assert store.delete("a/p")
    assert not store.delete("a/p")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_where_links_are_refused_files_are_renamed_and_it_is_said_once(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    store = LocalStore(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        assert store.put_new("a/b", b"first")
        assert store.put_new("a/c", b"first")
    assert len(said) == 1
    assert "hard links are refused" in str(said[0].message)
    (finding,) = check_store(store)
    assert "hard links are refused" in finding
    assert not store.put_new("a/b", b"second")
    assert store.get("a/b") == b"first"
    assert store.list(STAGING) == []


def test_the_race_lost_between_the_look_and_the_link_is_lost(tmp_path, monkeypatch):
    """Another writer takes the name after ours has found it free."""
    link = os.link

    def late(staged: Path, target: Path) -> None:
        target.write_bytes(b"theirs")
        link(staged, target)

    monkeypatch.setattr(os, "link", late)
    store = LocalStore(tmp_path)
    assert not store.put_new("a", b"ours")
    assert store.get("a") == b"theirs"


def test_a_link_whose_answer_was_lost_counts_as_made(tmp_path, monkeypatch):
    """NFS: the server links, the reply is lost, the client repeats and is told that the name exists."""
    link = os.link

    def twice(staged: Path, target: Path) -> None:
        link(staged, target)
        link(staged, target)

    monkeypatch.setattr(os, "link", twice)
    assert LocalStore(tmp_path).put_new("a", b"ours")


@pytest.mark.parametrize("key", ["../a", "a/../../b", "/etc/passwd", "a//b", "", ".", "a\\b", "a\0b"])
def test_a_key_cannot_leave_the_root(tmp_path, key):
    store = LocalStore(tmp_path / "lake")
    for use in (store.get, store.list, store.delete, lambda key: store.put_new(key, b"")):
        with pytest.raises(LakeError, match="leave the lake's folder"):
            use(key)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_lake_is_an_error_in_two_lines(tmp_path):
    """Root may write anywhere, so the way is blocked by a file."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LakeError) as caught:
        LocalStore(tmp_path / "file" / "lake").put_new("a", b"")
    assert len(str(caught.value).splitlines()) == 2
    assert str(tmp_path / "file" / "lake") in str(caught.value)


def test_uris(tmp_path):
    assert open_store(f"file://{tmp_path}/my%20lake").root == tmp_path / "my lake"
    assert open_store(tmp_path).root == tmp_path
    for uri in ("ftp://host/lake", "file://host/lake"):
        with pytest.raises(UsageError, match="not a place this version can write"):
            open_store(uri)
    for uri in ("", "file://"):
        with pytest.raises(UsageError, match="no path"):
            open_store(uri)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a file, not a folder"):
        open_store(tmp_path / "file")
