"""File digests are plain sha256, and a cached digest is never stale."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from pipeline import cache, hashing


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache folder of one test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SHAPELAKE_CACHE", str(folder))
    return folder


def rows(folder: Path) -> list[tuple[bytes, bytes, bytes, int]]:
    """Return the rows of the cache of checksums."""
    with closing(sqlite3.connect(folder / hashing.CACHE / "entries.sqlite")) as database:
        return database.execute("SELECT * FROM entries ORDER BY name").fetchall()


def aged(path: Path, data: bytes) -> Path:
    """Write a file with an mtime one minute ago."""
    path.write_bytes(data)
    os.utime(path, ns=(path.stat().st_mtime_ns - 60 * 10**9,) * 2)
    return path


def test_a_file_digest_is_its_sha256_and_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = aged(tmp_path / "a", b"abc")
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert hashing.file_sha256(path) == sha
    monkeypatch.setattr(hashing, "_sha256", lambda path: pytest.fail("read again"))
    assert hashing.file_sha256(path) == sha


def test_a_changed_file_of_equal_size_and_clock_is_read_again(tmp_path: Path) -> None:
    path = aged(tmp_path / "a", b"abc")
    clock = path.stat().st_mtime_ns
    hashing.file_sha256(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(clock, clock))
    assert hashing.file_sha256(path) == hashlib.sha256(b"abd").hexdigest()


def test_a_link_is_the_file_that_it_points_to(tmp_path: Path) -> None:
    """A link to the file or to its folder has the identity of the file; a link to another file has another one."""
    (tmp_path / "folder").mkdir()
    path = aged(tmp_path / "folder" / "a", b"abc")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder link").symlink_to(path.parent)
    identity = hashing.file_identity(path)
    assert identity[0] == os.path.realpath(path)
    same = (tmp_path / "link", tmp_path / "folder link" / "a", tmp_path / "folder link" / ".." / "folder" / "a")
    assert [hashing.file_identity(other) for other in same] == [identity] * 3
    (tmp_path / "folder link").unlink()
    (tmp_path / "folder link").symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    aged(tmp_path / "other" / "a", b"abc")
    assert hashing.file_identity(tmp_path / "folder link" / "a")[1:] != identity[1:]


def test_a_relative_path_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        aged(tmp_path / name / "a", name.encode())
        monkeypatch.chdir(tmp_path / name)
        assert hashing.file_sha256(Path("a")) == hashlib.sha256(name.encode()).hexdigest()
        assert hashing.file_identity(Path("a")) == hashing.file_identity(tmp_path / name / "a")


def test_a_file_written_just_now_is_not_remembered(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    aged(tmp_path / "b", b"abc")
    for name in "ab":
        hashing.file_sha256(tmp_path / name)
    assert [os.path.basename(name) for name, *_ in rows(own_cache)] == [b"b"]


def test_many_checksums_are_one_cache_file(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a batch and without; a replaced file replaces its entry."""
    paths = [aged(tmp_path / f"{i}", b"%d" % i) for i in range(50)]
    with hashing.batch_checksums(tmp_path):
        shas = [hashing.file_sha256(path) for path in paths]
        assert [hashing.file_sha256(path) for path in paths] == shas
    aged(paths[0], b"another")
    hashing.file_sha256(paths[0])
    assert [path.name for path in own_cache.rglob("*") if path.is_file()] == ["entries.sqlite"]
    assert len(rows(own_cache)) == 50
    monkeypatch.setattr(hashing, "_sha256", lambda path: pytest.fail("read again"))
    assert [hashing.file_sha256(path) for path in paths[1:]] == shas[1:]


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe" * 9000, None])
def test_a_damaged_cache_file_is_replaced(
    own_cache: Path, tmp_path: Path, damage: bytes | None, in_batch: bool
) -> None:
    """An empty file, one that is no database, and a flipped bit in an entry, which SQLite itself does not notice."""
    path = aged(tmp_path / "a", b"abc")
    sha = hashing.file_sha256(path)
    database = own_cache / hashing.CACHE / "entries.sqlite"
    database.write_bytes(
        database.read_bytes().replace(sha.encode(), b"0" + sha[1:].encode()) if damage is None else damage
    )
    cache._table.cache_clear()
    with hashing.batch_checksums(tmp_path) if in_batch else nullcontext():
        assert hashing.file_sha256(path) == sha
    assert [row[2] for row in rows(own_cache)] == [sha.encode()]


def test_a_cache_file_damaged_in_use_is_replaced(own_cache: Path, tmp_path: Path) -> None:
    path = aged(tmp_path / "a", b"abc")
    sha = hashing.file_sha256(path)
    database = own_cache / hashing.CACHE / "entries.sqlite"
    database.write_bytes(b"\0" * database.stat().st_size)
    assert [hashing.file_sha256(path) for _ in range(2)] == [sha, sha]
    assert [row[2] for row in rows(own_cache)] == [sha.encode()]


def test_without_a_usable_cache_file_checksums_are_computed(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a cache that cannot be opened nor one that another process never unlocks makes hashing fail."""
    monkeypatch.setattr(cache, "LOCK_TIMEOUT_S", 0.01)
    path, database = aged(tmp_path / "a", b"abc"), own_cache / hashing.CACHE / "entries.sqlite"
    database.mkdir(parents=True)
    assert hashing.file_sha256(path) == hashlib.sha256(b"abc").hexdigest()
    database.rmdir()
    cache._table.cache_clear()
    with closing(sqlite3.connect(database)) as other:
        other.execute(cache.CREATE)
        other.execute("BEGIN EXCLUSIVE")
        assert hashing.file_sha256(path) == hashlib.sha256(b"abc").hexdigest()
    assert rows(own_cache) == []


def test_a_read_only_cache_file_is_read(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (aged(tmp_path / name, name.encode()) for name in "ab")
    hashing.file_sha256(one)
    connect = cache._connect

    def read_only(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA query_only = ON")
        return connection

    monkeypatch.setattr(cache, "_connect", read_only)
    cache._table.cache_clear()
    assert [hashing.file_sha256(two) for _ in range(2)] == [hashlib.sha256(b"b").hexdigest()] * 2
    assert len(rows(own_cache)) == 1
    monkeypatch.setattr(hashing, "_sha256", lambda path: pytest.fail("read again"))
    hashing.file_sha256(one)


def test_processes_share_the_cache_and_a_kill_costs_at_most_a_second_of_work(own_cache: Path, tmp_path: Path) -> None:
    """Four processes hash the same files; two are killed in a batch that does not end."""
    for i in range(200):
        aged(tmp_path / f"{i}", b"%d" % i)
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom pipeline import cache, hashing\n"
        "cache.WRITE_EVERY_S = 0.01\nroot = Path(sys.argv[1])\n"
        "with hashing.batch_checksums(root):\n"
        "    for i in range(200):\n        hashing.file_sha256(root / str(i))\n        time.sleep(0.001)\n"
        "    print('hashed', flush=True)\n    time.sleep(float(sys.argv[2]))\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), pause], stdout=subprocess.PIPE)
        for pause in ("60", "0", "60", "0")
    ]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == b"hashed\n"
    for child in children[::2]:
        child.kill()
    assert [child.wait(30) for child in children] == [-signal.SIGKILL, 0, -signal.SIGKILL, 0]
    found = {os.path.basename(name).decode(): text.decode() for name, _, text, _ in rows(own_cache)}
    assert found == {str(i): hashlib.sha256(b"%d" % i).hexdigest() for i in range(200)}


def test_a_forked_process_opens_its_own_connection(own_cache: Path, tmp_path: Path) -> None:
    paths = [aged(tmp_path / name, name.encode()) for name in "ab"]
    hashing.file_sha256(paths[0])
    if (child := os.fork()) == 0:
        os._exit(0 if hashing.file_sha256(paths[1]) == hashlib.sha256(b"b").hexdigest() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(rows(own_cache)) == 2


def test_the_digest_of_files_is_that_of_their_sorted_names_and_digests(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name * 3)
    pairs = [[name, hashlib.sha256(name.encode() * 3).hexdigest()] for name in ("a", "b")]
    expected = hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()
    assert hashing.digest_file_hashes((name, hashing.file_sha256(tmp_path / name)) for name in "ba") == expected
