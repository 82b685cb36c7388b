"""Download by commit: every file is verified, broken downloads resume, and nothing is left in scratch."""

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from pipeline.catalog import fetch as fetching
from pipeline.catalog import hub_http
from pipeline.catalog.fetch import discard_checkpoint, fetch_checkpoint, fetch_temporarily
from pipeline.errors import CheckpointError, FetchError, FilesChangedError, UsageError
from pipeline.spec import Checkpoint, HubFile, RemoteFiles
from tests.support.remote_checkpoint import FILES, REPO, RUN, SIZE, WEIGHTS, bytes_sent, checkpoint, files_in, leftovers

pytestmark = pytest.mark.usefixtures("short_waits")


def test_only_the_wanted_files_are_downloaded_and_nothing_is_left(hub):
    with fetch_temporarily(wanted := checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
        assert here.tokenizer_path == here.path
        assert here == wanted.model_copy(update={"path": here.path, "tokenizer_path": here.path})
    assert leftovers() == []
    assert not hub.asked("*optimizer*")
    assert bytes_sent(hub, "*") == SIZE


def test_the_folder_goes_when_the_work_fails(hub):
    with pytest.raises(ZeroDivisionError), fetch_temporarily(checkpoint(hub), RUN):
        raise ZeroDivisionError
    assert leftovers() == []


def test_a_local_checkpoint_is_given_as_it_is(hub):
    local = checkpoint(hub).model_copy(update={"remote": None, "path": "/somewhere"})
    with fetch_temporarily(local, RUN) as here:
        assert here is local
    assert not hub.requests


def test_a_sub_folder_is_the_checkpoints_folder(hub):
    with fetch_temporarily(checkpoint(hub, subfolder="global/step_7"), RUN) as here:
        assert here.path.endswith("/global/step_7")
        assert files_in(Path(here.path)) == FILES


def test_a_tokenizer_of_another_repository_has_a_folder_of_its_own(hub):
    words = b'{"version": "1.0"}'
    sha = hub.repo("org/final").commit({"tokenizer.json": words})
    listed = HubFile(path="tokenizer.json", size=len(words), sha256=hashlib.sha256(words).hexdigest())
    other = RemoteFiles(repo="org/final", commit=sha, files=(listed,))
    with fetch_temporarily(checkpoint(hub).model_copy(update={"tokenizer_remote": other}), RUN) as here:
        assert files_in(Path(here.tokenizer_path)) == {"tokenizer.json": words}
        assert files_in(Path(here.path)) == FILES


def test_what_was_fetched_ahead_is_used_without_a_request(hub):
    folder = fetch_checkpoint(wanted := checkpoint(hub), RUN)
    asked = len(hub.requests)
    assert fetch_checkpoint(wanted, RUN) == folder == fetching.scratch_folder(wanted, RUN)
    with fetch_temporarily(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES
    assert len(hub.requests) == asked
    assert leftovers() == []


def test_what_was_fetched_for_nothing_is_discarded(hub):
    fetch_checkpoint(wanted := checkpoint(hub), RUN)
    discard_checkpoint(wanted, RUN)
    discard_checkpoint(wanted, RUN)
    assert leftovers() == []


def test_two_runs_and_two_checkpoints_have_folders_of_their_own(hub):
    one, two = checkpoint(hub, "step1"), checkpoint(hub, "step2")
    folders = {
        fetching.scratch_folder(one, RUN),
        fetching.scratch_folder(two, RUN),
        fetching.scratch_folder(one, "another"),
    }
    assert len(folders) == 3


def test_a_truncated_body_is_resumed_where_it_broke_off(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    cut = len(FILES["model.safetensors"]) // 2
    hub.fail(WEIGHTS, cut=cut, times=2)
    with fetch_temporarily(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
    ranges = [request.headers.get("range") for request in hub.asked("/cdn/*", "GET")]
    assert ranges[0] is None
    assert cut - 1000 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= cut
    assert bytes_sent(hub, WEIGHTS) < len(FILES["model.safetensors"]) + 2 * 1000


def test_one_flipped_bit_is_caught_and_the_file_fetched_again(hub):
    hub.fail(WEIGHTS, flip=70_000)
    with fetch_temporarily(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
    assert bytes_sent(hub, WEIGHTS) == 2 * len(FILES["model.safetensors"])


def test_a_bit_that_stays_flipped_is_an_error_of_the_checkpoint(hub):
    hub.fail(WEIGHTS, flip=70_000, times=None)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*flipped bit"):
        fetch_checkpoint(checkpoint(hub), RUN)
    assert len(hub.asked("/cdn/*", "GET")) == 2
    assert leftovers() == []


def test_a_small_file_too_is_checked(hub):
    hub.fail("*/config.json", flip=2, times=None, method="GET")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        fetch_checkpoint(checkpoint(hub), RUN)


def test_a_stall_is_resumed_and_one_without_end_times_out(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.fail(WEIGHTS, cut=1000, stall=30.0)
    with fetch_temporarily(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES
    hub.fail("/cdn/*", cut=1000, stall=30.0, times=None)
    started = time.monotonic()
    with pytest.raises(FetchError, match="ReadTimeout"):
        fetch_checkpoint(checkpoint(hub), RUN)
    assert time.monotonic() - started < 5.0
    assert leftovers() == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(("status", "headers"), [(503, {}), (429, {"RateLimit": '"resolvers";r=0;t=0'})])
def test_a_busy_hub_delays_a_download(hub, method, status, headers):
    hub.fail(WEIGHTS, status=status, headers=headers, times=2, method=method)
    with fetch_temporarily(checkpoint(hub), RUN) as here:
        assert files_in(Path(here.path)) == FILES


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_hub_that_stays_busy_fails_the_download_for_now(hub, method):
    hub.fail(WEIGHTS, status=503, times=None, method=method)
    with pytest.raises(FetchError, match="503"):
        fetch_checkpoint(checkpoint(hub), RUN)
    assert len(hub.asked(WEIGHTS, method)) == hub_http.MAX_ATTEMPTS
    assert leftovers() == []


def test_a_branch_that_moves_after_planning_changes_nothing(hub):
    wanted = checkpoint(hub)
    hub.repo(REPO).commit({"model.safetensors": b"other"}, "step1")
    hub.repo(REPO).delete("step1")
    with fetch_temporarily(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES


def test_a_planned_commit_that_is_gone_has_to_be_planned_again(hub):
    wanted = checkpoint(hub)
    hub.repo(REPO).forget(wanted.remote.commit)
    with pytest.raises(FilesChangedError, match="no longer on the Hub") as error:
        fetch_checkpoint(wanted, RUN)
    assert wanted.remote.commit in str(error.value)
    assert "plan" in error.value.do
    assert leftovers() == []


def test_a_gated_repository_is_refused_in_one_request(hub):
    wanted = checkpoint(hub)
    hub.repo(REPO).gated = True
    with pytest.raises(UsageError, match="gated"):
        fetch_checkpoint(wanted, RUN)
    assert len(hub.requests) == 1


def test_a_renamed_repository_can_still_be_fetched(hub):
    wanted = checkpoint(hub)
    hub.rename(REPO, "new-org/model")
    with fetch_temporarily(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES


def in_the_users_cache(wanted: Checkpoint) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, revision=wanted.remote.commit, allow_patterns=list(FILES))


def test_files_of_the_users_cache_are_linked_and_stay_there(hub, monkeypatch):
    in_the_users_cache(wanted := checkpoint(hub))
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for _ in range(2):
        with fetch_temporarily(wanted, RUN) as here:
            assert files_in(Path(here.path)) == FILES
    assert len(hub.requests) == asked


def test_links_that_a_killed_fetch_left_are_made_again(hub, tmp_path):
    in_the_users_cache(wanted := checkpoint(hub))
    left_over = fetching.scratch_folder(wanted, RUN) / "path"
    left_over.mkdir(parents=True)
    (left_over / "config.json").symlink_to(tmp_path / "gone")
    (left_over / "model.safetensors").write_bytes(b"half")
    with fetch_temporarily(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES
    assert leftovers() == []


def test_a_damaged_copy_in_the_users_cache_is_not_taken(hub):
    in_the_users_cache(wanted := checkpoint(hub))
    (blob,) = [path for path in Path(os.environ["HF_HOME"]).rglob("blobs/*") if path.stat().st_size > 1000]
    blob.chmod(0o600)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with fetch_temporarily(wanted, RUN) as here:
        assert files_in(Path(here.path)) == FILES


def test_offline_without_the_files_is_an_error(hub, monkeypatch):
    wanted = checkpoint(hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        fetch_checkpoint(wanted, RUN)
    assert not hub.requests


def test_a_full_disk_is_a_failure_that_may_pass(hub, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching, "hf_hub_download", full)
    with pytest.raises(FetchError, match="No space left on device") as error:
        fetch_checkpoint(checkpoint(hub), RUN)
    assert "free space" in error.value.do
    assert leftovers() == []


def test_a_download_is_shown(hub, monkeypatch, capfd):
    monkeypatch.setattr("pipeline.progress.SHOW_AFTER_S", 0.0)
    fetch_checkpoint(checkpoint(hub), RUN)
    assert f"Downloading {REPO}@step1: " in (shown := capfd.readouterr().err)
    assert f" of {SIZE:,} bytes" in shown
