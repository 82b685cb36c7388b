"""A node without network measures the snapshots in the user's Hugging Face cache."""

from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from pipeline.catalog.discovery import discover_histories, resolve_checkpoint
from pipeline.errors import FetchError, UsageError
from pipeline.lake import Lake
from pipeline.spec import Hub, Local
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.hub.test_end_to_end import published, rows, sweep
from tests.support import tiny_checkpoints as tiny
from tests.support.fake_hub import FakeHub

REPO, STEPS = "lab/small", (0, 1, 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.history(tmp_path_factory.mktemp("local") / "lab--small", list(STEPS))


def go_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the network away from this process and its children."""
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_snapshots_have_the_ids_and_numbers_of_the_folders(hub, folders, text, tmp_path, monkeypatch, backend):
    published(hub, folders)
    for step in STEPS:
        snapshot_download(REPO, revision=f"step{step}")
    go_offline(hub, monkeypatch)
    near, far = Lake(tmp_path / "near"), Lake(tmp_path / "far")
    plans = [
        make_plan(sweep(source, text), lake)
        for source, lake in ((Local(local=str(folders), model=REPO), near), (Hub(hub=REPO), far))
    ]
    assert [cell.id for cell in plans[0].cells] == [cell.id for cell in plans[1].cells]
    reports = [run(plans[0], near, "inline"), run(plans[1], far, backend)]
    assert [(report.exit_code, report.committed) for report in reports] == [(0, len(STEPS))] * 2
    assert rows(near) == rows(far)
    assert hub.requests == []


def test_only_what_was_fetched_is_found(hub, folders, monkeypatch):
    published(hub, folders)
    for step in (0, 1):
        snapshot_download(REPO, revision=f"step{step}")
    snapshot_download(REPO, revision="step2", allow_patterns=["config.json"])
    go_offline(hub, monkeypatch)
    (history,) = discover_histories(Hub(hub=REPO))
    states = {revision.name: revision.state for revision in history.revisions}
    assert states == {"step0": "NEW", "step1": "NEW", "step2": "NO_WEIGHTS"}


def test_one_checkpoint_is_found_by_its_branch(hub, folders, monkeypatch):
    published(hub, folders)
    snapshot_download(REPO, revision="step1")
    online = resolve_checkpoint(Hub(hub=REPO), "step1")
    go_offline(hub, monkeypatch)
    assert resolve_checkpoint(Hub(hub=REPO), "step1") == online


def test_without_a_snapshot_the_error_says_so(hub, folders, monkeypatch):
    published(hub, folders)
    go_offline(hub, monkeypatch)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set, and neither") as error:
        discover_histories(Hub(hub=REPO))
    assert str(error.value).count("\n") == 1


def test_a_damaged_file_of_the_cache_is_no_answer(hub, folders, monkeypatch, short_waits):
    published(hub, folders)
    for step in STEPS:
        config = Path(snapshot_download(REPO, revision=f"step{step}")) / "config.json"
    blob = config.resolve()
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes().replace(b"2", b"3", 1))
    go_offline(hub, monkeypatch)
    with pytest.raises(FetchError, match="damaged"):
        discover_histories(Hub(hub=REPO))
