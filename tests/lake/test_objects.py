"""Object stores: one winner per name, complete objects or none, stores without these guarantees, and a lake in S3."""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from pipeline import lake as lakes
from pipeline.errors import LakeError, UsageError
from pipeline.lake import Lake, lake_status, object_store
from pipeline.lake.local_store import LocalStore
from pipeline.lake.object_store import ObjectStore
from pipeline.lake.open_store import open_store
from pipeline.lake.snapshot import compact
from pipeline.lake.store import STAGING, check_store
from tests.support import fake_s3, lake_rows
from tests.support.left_out_files import left_out_files

ROOT = Path(__file__).resolve().parents[2]
URI = "s3://bucket/some/lake"


@pytest.fixture
def s3_env(monkeypatch) -> Iterator[dict[str, str]]:
    with fake_s3.serve() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


RACER = """
import sys, time
from pipeline.lake.open_store import open_store
store, writer, data = open_store(sys.argv[1]), sys.argv[2], sys.argv[2].encode() * 10**4
print("ready", flush=True)
for line in sys.stdin:
    key, start = line.split()
    time.sleep(max(0, float(start) - time.monotonic()))
    began = time.monotonic()
    won = store.put_new(f"cells/v1/{key}", data)
    print(int(won), began, time.monotonic(), flush=True)
"""


class Put(NamedTuple):
    """Attempt of one writer at one key; `began` and `ended` are times of the machine-wide monotonic clock."""

    won: bool
    began: float
    ended: float


def race(uri: str, keys: int, writers: int = 6) -> list[list[Put]]:
    """Return the attempt of every writer at each key; writers are processes that start on a key at the same time."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    racers = [subprocess.Popen([sys.executable, "-c", RACER, uri, str(n)], **pipes) for n in range(writers)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    puts = [attempt(racers, key) for key in range(keys)]
    for racer in racers:
        racer.communicate()
    return puts


def attempt(racers: list[subprocess.Popen], key: int) -> list[Put]:
    start = time.monotonic() + 0.02
    for racer in racers:
        racer.stdin.write(f"{key} {start}\n")
        racer.stdin.flush()
    answers = [racer.stdout.readline().split() for racer in racers]
    return [Put(won == "1", float(began), float(ended)) for won, began, ended in answers]


def overlapped(puts: list[Put]) -> bool:
    """Return True if at least two writers worked on the key at the same time."""
    in_order = sorted(puts, key=lambda put: put.began)
    return any(later.began < earlier.ended for earlier, later in pairwise(in_order))


KEYS = [15, pytest.param(150, marks=pytest.mark.slow)]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("backend", ["local", "s3"])
def test_of_six_writers_of_the_same_keys_exactly_one_creates_each(backend, keys, tmp_path, s3_env):
    uri = URI if backend == "s3" else str(tmp_path)
    puts = race(uri, keys)
    assert [sum(put.won for put in key) for key in puts] == [1] * keys
    assert any(map(overlapped, puts)), "the writers raced"
    store = open_store(uri)
    for key in range(keys):
        (winner,) = [writer for writer, put in enumerate(puts[key]) if put.won]
        assert store.get(f"cells/v1/{key}") == str(winner).encode() * 10**4, "the object is the winner's"


WRITER = """
import sys
from pipeline.lake.open_store import open_store
store = open_store(sys.argv[1])
for i in range(10**6):
    store.create_if_absent(f"cells/v1/{sys.argv[2]}-{i}", bytes(2**22))
    print(i, flush=True)
"""


def test_a_writer_killed_during_a_put_leaves_only_complete_objects(s3_env):
    rng = random.Random(0)
    for n in range(5):
        words = [sys.executable, "-c", WRITER, URI, str(n)]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
    store = open_store(URI)
    keys = store.list("cells/v1")
    assert len({key.split("-")[0] for key in keys}) == 5
    assert {len(store.get(key)) for key in keys} == {2**22}
    assert store.list_stale_staging(0) == []


def test_put_new_never_replaces_and_put_or_replace_always_does(s3_env):
    store = open_store(URI + "/")
    assert store.top_names() is None
    assert store.put_new("a/b", b"first")
    assert not store.put_new("a/b", b"second")
    assert not store.create_if_absent("a/b", b"second")
    assert store.get("a/b") == b"first"
    store.put_or_replace("a/p", b"first")
    store.put_or_replace("a/p", b"second")
    assert store.get("a/p") == b"second"
    store.put_new("ab/c", b"")
    assert store.list("a") == ["a/b", "a/p"]
    assert store.list("nowhere") == []
    assert store.top_names()
    assert store.delete("a/p")
    assert not store.delete("a/p")
    with pytest.raises(LakeError, match="read a/p"):
        store.get("a/p")


def test_check_store_finds_nothing_in_a_sound_store(s3_env, tmp_path):
    for uri in (URI, str(tmp_path / "lake")):
        store = open_store(uri)
        assert check_store(store) == []
        assert store.list(STAGING) == []


def test_a_store_that_ignores_the_condition_is_detected_and_files_are_not_replaced(monkeypatch):
    """The check before each write is enough without a race."""
    with fake_s3.serve(fake_s3.forgetful) as environment:
        set_environment(monkeypatch, environment)
        store = open_store(URI)
        (finding,) = check_store(store)
        assert "created twice" in finding
        assert store.put_new("a", b"first")
        assert not store.put_new("a", b"second")
        assert store.get("a") == b"first"


def test_a_store_that_refuses_the_condition_works_and_warns_once(monkeypatch):
    with fake_s3.serve(fake_s3.refusing) as environment, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        set_environment(monkeypatch, environment)
        store = open_store(URI)
        assert store.put_new("a", b"first")
        assert store.put_new("b", b"first")
        assert not store.put_new("a", b"second")
        assert store.get("a") == b"first"
        warned, found = check_store(store)
        assert "conditional put" in warned
        assert "created twice" in found
    assert len([warning for warning in caught if "conditional put" in str(warning.message)]) == 1


def test_a_lake_in_an_object_store_reads_like_one_in_a_folder(s3_env, tmp_path):
    """Also with a snapshot, and with cells committed after it."""
    query = "from layers order by model, step, layer"
    remote, local = Lake(URI), Lake(tmp_path / "lake")
    with pytest.raises(UsageError):
        Lake.existing(URI)
    for step in (1, 2, 3):
        for lake in (remote, local):
            lake.record_labels([lake_rows.checkpoint(step)])
            lake_rows.commit(lake, lake_rows.checkpoint(step))
        if step == 2:
            assert compact(remote)
        remote_rows, local_rows = (lakes.open_lake(lake.uri).query_frame(query) for lake in (remote, local))
        assert remote_rows.equals(local_rows)
        assert remote_rows.height == step * lake_rows.LAYERS
    assert lake_status(remote)["models"][0]["cells"] == 3
    key = remote.cell_files()[lake_rows.cell(lake_rows.checkpoint(3)).id]
    remote.store.put_or_replace(key, b"PAR1 not Parquet PAR1")
    with left_out_files() as messages:
        assert lakes.open_lake(URI).query_frame(query).height == 2 * lake_rows.LAYERS
    assert key in messages[0]


def test_a_missing_bucket_is_an_error_in_two_lines(s3_env):
    store = open_store("s3://nowhere/lake")
    for use in (store.top_names, lambda: store.put_new("a", b""), lambda: store.list("a")):
        with pytest.raises(LakeError) as caught:
            use()
        assert len(str(caught.value).splitlines()) == 2
        assert "s3://nowhere/lake" in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://", "s3:///lake", "s3://key:secret@bucket/lake", "s3://bucket/lake?token=secret"])
def test_a_uri_with_credentials_or_without_a_bucket_is_refused_without_its_secrets(uri):
    with pytest.raises(UsageError) as caught:
        open_store(uri)
    assert "secret" not in str(caught.value)


def test_neither_an_error_nor_its_traceback_quotes_the_response(monkeypatch):
    """S3 quotes the session token if a signature is wrong."""
    with fake_s3.serve(fake_s3.distrusting) as environment:
        set_environment(monkeypatch, environment | {"AWS_SESSION_TOKEN": "secret"})
        with pytest.raises(LakeError, match=r"403 Forbidden\.\n") as caught:
            open_store(URI).put_new("cells/a", b"")
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_an_error_does_not_quote_a_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", '"secret"')
    with pytest.raises(LakeError, match="decode") as caught:
        open_store("gs://bucket/lake")
    assert "secret" not in str(caught.value)


def test_an_error_names_the_endpoint_without_its_password(monkeypatch, s3_env):
    monkeypatch.setattr(object_store, "RETRY", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT", "http://someone:secret@127.0.0.1:1")
    with pytest.raises(LakeError, match=r"http://127\.0\.0\.1:1/") as caught:
        open_store(URI).has("a")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["gs://bucket/lake", "az://container/lake", "s3://bucket"])
def test_every_kind_of_object_store_is_opened_without_a_request(uri, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "someone")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert open_store(uri).uri == uri


def test_a_missing_extra_is_named_in_two_lines(monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.lake.object_store")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(UsageError, match=r"obstore.*\n.*\[cloud\]") as caught:
        open_store(URI)
    assert len(str(caught.value).splitlines()) == 2


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=12)
HOSTILE = st.sampled_from(["..", ".", "", "/", "//", "\\", "\0", "\n", "%2e%2e", "%2F", "C:", "~", "a" * 300, "\ud800"])
KEY = st.lists(NAMES | HOSTILE, max_size=5).map("/".join) | st.text(max_size=30)


CASES = pytest.mark.parametrize("cases", [200, pytest.param(2000, marks=pytest.mark.slow)])


@CASES
def test_no_key_leaves_the_folder(cases):
    store = LocalStore(Path("/the/lake"))

    @settings(max_examples=cases, deadline=None)
    @given(key=KEY)
    def holds(key):
        with suppress(LakeError):
            path = store.path(key)
            assert Path(os.path.normpath(path)) == path
            assert store.root in path.parents

    holds()


@CASES
def test_no_key_leaves_the_prefix(cases, monkeypatch):
    inside = MemoryStore()
    monkeypatch.setattr(object_store, "from_url", lambda *_, **__: inside)
    store = ObjectStore(URI)

    @settings(max_examples=cases, deadline=None)
    @given(key=KEY)
    def holds(key):
        with suppress(LakeError):
            assert store.create_if_absent(key, b"data")
            assert [found["path"] for chunk in inside.list() for found in chunk] == [key], (
                "exactly this object was created"
            )
            assert store.delete(key)

    holds()


@settings(max_examples=30, deadline=None)
@given(key=KEY)
def test_a_key_is_written_in_the_folder_or_refused(key, tmp_path_factory):
    root = tmp_path_factory.mktemp("keys")
    store = LocalStore(root / "lake")
    with suppress(LakeError):
        assert store.put_new(key, b"data")
        assert store.get(key) == b"data"
        assert store.delete(key)
    assert {path.name for path in root.glob("*")} <= {"lake"}
