"""File digests are plain sha256, and a cached digest is never stale."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from pipeline import cache, hashing


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


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    before = set(cache.folder("sha256").iterdir())
    hashing.file_sha256(path)
    assert set(cache.folder("sha256").iterdir()) == before


def test_a_corrupt_cache_entry_is_computed_again(tmp_path: Path) -> None:
    path = aged(tmp_path / "a", b"abc")
    before = set(cache.folder("sha256").iterdir())
    sha = hashing.file_sha256(path)
    (entry,) = set(cache.folder("sha256").iterdir()) - before
    for corrupt in (b"", b"\xff\xfe", sha[:40].encode()):
        entry.write_bytes(corrupt)
        assert hashing.file_sha256(path) == sha


def test_the_digest_of_files_is_that_of_their_sorted_names_and_digests(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name * 3)
    pairs = [[name, hashlib.sha256(name.encode() * 3).hexdigest()] for name in ("a", "b")]
    expected = hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()
    assert hashing.digest_file_hashes((name, hashing.file_sha256(tmp_path / name)) for name in "ba") == expected
