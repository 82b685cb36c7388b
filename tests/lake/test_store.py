"""Local store: one winner per name, complete files or none, nothing outside the root."""

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
from pipeline.lake.local_store import LocalStore
from pipeline.lake.open_store import open_store
from pipeline.lake.snapshot import collect_garbage
from pipeline.lake.store import STAGING, STAGING_MAX_AGE_S, check_store
from pipeline.lake.verify import verify_lake
from tests.support import killed_writer, lake_rows

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
    assert sum(any(one) for one in won) > 1, "the writers raced"
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
    """Ten writers, each killed within its first 200 ms of writing; only staging may have partial files."""
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
    moments = killed_writer.moments("put", tmp_path)
    found = [LocalStore(tmp_path / str(moment)).list("cells/v1") for moment in range(moments + 1)]
    assert found == sorted(found), "a later kill never loses the file"
    assert [] in found[:-1]
    assert ["cells/v1/a"] in found[:-1]
    for root in tmp_path.iterdir():
        assert all(len(LocalStore(root).get(key)) == 999 for key in LocalStore(root).list("cells/v1"))


def test_a_commit_killed_before_each_of_its_system_calls_leaves_a_sound_lake(tmp_path):
    """The cell is committed or absent, the lake verifies, gc removes staged files, and a rerun commits the cell."""
    wanted = killed_writer.cell()
    table = to_table(lake_rows.rows(wanted), {})
    moments, committed, staged = killed_writer.moments("commit", tmp_path), [], []
    for moment in range(moments + 1):
        lake = Lake(tmp_path / str(moment))
        committed.append(lake.committed_cell_ids() == {wanted.id})
        staged.append(bool(lake.store.list(STAGING)))
        assert verify_lake(lake) == []
        collect_garbage(lake, timedelta(0), dry_run=False)
        assert lake.store.list(STAGING) == []
        assert lake.commit(wanted.id, wanted.checkpoint.model_key, table) is not committed[-1]
        (key,) = lake.cell_files().values()
        assert pq.read_table(BytesIO(lake.store.get(key))).equals(table)
        assert verify_lake(lake) == []
    assert committed == sorted(committed), "a later kill never loses the file"
    assert (committed[0], committed[-2], staged[-1]) == (False, True, False)
    assert sum(staged) > 10


def test_staged_files_of_killed_writers_are_removed_after_a_day_and_not_before(tmp_path):
    store = LocalStore(tmp_path)
    store.put_new("a", b"")
    old, new = tmp_path / STAGING / "old", tmp_path / STAGING / "new"
    for path in (old, new):
        path.write_bytes(b"partial")
    os.utime(old, (time.time() - STAGING_MAX_AGE_S - 60,) * 2)
    assert store.remove_stale_staging() == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_put_new_never_replaces_and_put_or_replace_always_does(tmp_path):
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
def test_without_hard_links_files_are_renamed_with_one_warning(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    store = LocalStore(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert store.put_new("a/b", b"first")
        assert store.put_new("a/c", b"first")
    assert len(caught) == 1
    (finding,) = check_store(store)
    for message in (str(caught[0].message), finding):
        assert "hard links" in message
        assert os.strerror(code) in message
    assert not store.put_new("a/b", b"second")
    assert store.get("a/b") == b"first"
    assert store.list(STAGING) == []


def test_a_file_created_between_the_check_and_the_link_is_not_replaced(tmp_path, monkeypatch):
    """Another writer creates the file after our check."""
    link = os.link

    def late(staged: Path, target: Path) -> None:
        target.write_bytes(b"theirs")
        link(staged, target)

    monkeypatch.setattr(os, "link", late)
    store = LocalStore(tmp_path)
    assert not store.put_new("a", b"ours")
    assert store.get("a") == b"theirs"


def test_a_link_whose_reply_was_lost_counts_as_created(tmp_path, monkeypatch):
    """NFS: the server makes the link, its reply is lost, and the repeated request fails with EEXIST."""
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
        with pytest.raises(LakeError, match="relative path"):
            use(key)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_lake_is_an_error_in_two_lines(tmp_path):
    """A file blocks the folder, because permissions do not stop root."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LakeError) as caught:
        LocalStore(tmp_path / "file" / "lake").put_new("a", b"")
    assert len(str(caught.value).splitlines()) == 2
    assert str(tmp_path / "file" / "lake") in str(caught.value)


def test_uris(tmp_path):
    assert open_store(f"file://{tmp_path}/my%20lake").root == tmp_path / "my lake"
    assert open_store(tmp_path).root == tmp_path
    for uri in ("ftp://host/lake", "file://host/lake"):
        with pytest.raises(UsageError, match=r"//host is not .*\n.*s3://"):
            open_store(uri)
    for uri in ("", "file://"):
        with pytest.raises(UsageError, match="no path"):
            open_store(uri)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a file, not a folder"):
        open_store(tmp_path / "file")
