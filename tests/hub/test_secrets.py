"""The token is sent to the endpoint only: never to another host, a file, a log line or an exception."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.catalog import hub_client
from pipeline.catalog.fetch import fetch_temporarily
from pipeline.errors import UsageError
from pipeline.spec import Checkpoint, HubFile, RemoteFiles
from tests.support.fake_hub import FakeHub

REPO = "org/model"
TOKEN = "hf_MySecretThatNobodyMaySee1234567890"
FILES = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"w" * 3000}


def checkpoint(hub: FakeHub) -> Checkpoint:
    sha = hub.repo(REPO).commit(FILES, "step1")
    listed = tuple(HubFile(path=n, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in FILES.items())
    return Checkpoint(
        **dict(model=REPO, revision="step1", path="", tokenizer_path="", kinds=("decoder",)),
        **dict(remote=RemoteFiles(repo=REPO, commit=sha, files=listed)),
        **dict(weights_digest="w", config_digest="c", tokenizer_digest="t"),
    )


def test_the_token_is_sent_to_the_endpoint_and_to_no_other_host(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repo(REPO).gated = True
    hub.repo(REPO).granted.add(TOKEN)
    hub.fail("/cdn/*", cut=100)
    wanted = checkpoint(hub)
    sha = hub_client.fetch_refs(REPO).branches["step1"]
    for entry in hub_client.fetch_tree(REPO, sha):
        hub_client.fetch_small_file(REPO, sha, entry)
    assert not hub_client.is_access_denied(REPO, sha)
    hub_client.list_model_ids("org")
    with fetch_temporarily(wanted, "run") as here:
        assert Path(here.path, "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert {(request.port == hub.port, request.authorized) for request in hub.requests} == {
        (True, True),
        (False, False),
    }


def test_a_hub_that_redirects_elsewhere_does_not_get_the_token_there(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    checkpoint(hub)
    elsewhere = f"http://127.0.0.1:{hub.cdn_port}/api/models/{REPO}/refs"
    hub.fail("*/refs", status=307, headers={"Location": elsewhere})
    hub_client.fetch_refs(REPO)
    assert [(request.port == hub.port, request.authorized) for request in hub.requests] == [
        (True, True),
        (False, False),
    ]


def test_a_listing_that_goes_on_elsewhere_does_not_take_the_token_there(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    sha = checkpoint(hub).remote.commit
    elsewhere = f"http://127.0.0.1:{hub.cdn_port}/api/models/{REPO}/tree/{sha}"
    hub.fail("*/tree/*", status=200, headers={"Link": f'<{elsewhere}>; rel="next"'})
    assert len(hub_client.fetch_tree(REPO, sha)) == len(FILES)
    assert [(request.port == hub.port, request.authorized) for request in hub.requests] == [
        (True, True),
        (False, False),
    ]


@pytest.mark.parametrize("character", ["\x01", "\x7f", "é", "…"])
def test_a_token_that_no_header_can_carry_is_not_quoted(hub, monkeypatch, character):
    monkeypatch.setenv("HF_TOKEN", TOKEN + character)
    with pytest.raises(UsageError, match="HF_TOKEN") as error:
        hub_client.fetch_refs(REPO)
    assert TOKEN not in str(error.value)
    assert not hub.requests


FAULTS = {
    "refused": dict(status=401),
    "forbidden": dict(status=403),
    "busy": dict(status=503),
    "full": dict(status=429, headers={"Retry-After": "100000"}),
    "broken": dict(status=400),
    "flipped": dict(flip=1),
    "truncated": dict(cut=1),
    "stalled": dict(stall=30.0),
}
CHILD = """
import logging, pickle, sys, traceback
logging.basicConfig(level=logging.DEBUG)
import huggingface_hub.file_download
from pipeline.catalog import fetch, hub_client, hub_http
from pipeline.spec import Checkpoint
hub_http.FIRST_WAIT_S, hub_http.TIMEOUT_S, hub_http.constants.HF_HUB_DOWNLOAD_TIMEOUT = 0.001, 0.1, 0.1
huggingface_hub.file_download.time = type("quick", (), {"sleep": staticmethod(lambda s: None)})
wanted = Checkpoint.model_validate_json(sys.argv[1])
repo, commit = wanted.remote.repo, wanted.remote.commit
entry = hub_client.TreeEntry(path="config.json", size=1, oid="0" * 40, sha256=None)
calls = (
    lambda: hub_client.fetch_refs(repo), lambda: hub_client.fetch_tree(repo, commit),
    lambda: hub_client.list_model_ids("org"), lambda: hub_client.fetch_small_file(repo, commit, entry),
    lambda: hub_client.is_access_denied(repo, commit), lambda: fetch.fetch_checkpoint(wanted, "run"),
)
for fault in sys.stdin:
    failed = 0
    for call in calls:
        try:
            call()
        except Exception as error:
            failed += 1
            logging.exception("%r %r %r", error, pickle.dumps(error), vars(error))
            while error := error.__cause__ or error.__context__:
                logging.error("%r %r", error, [str(arg) for arg in error.args])
    print(failed, flush=True)
"""


def test_the_token_is_in_no_file_no_log_line_and_no_exception(hub, tmp_path):
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, checkpoint(hub).model_dump_json()],
            **dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True),
            env={**os.environ, "HF_TOKEN": TOKEN, "HF_DEBUG": "1"},
        )
    failed = {fault: failures(child, hub, fault) for fault in FAULTS}
    child.communicate()
    assert child.returncode == 0
    assert all(n >= 5 for n in failed.values()), failed  # one of the six calls is a HEAD request without a body
    assert any(request.authorized for request in hub.requests)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files[tmp_path / "log"].count(b"Traceback") >= 5 * len(FAULTS)
    assert [path for path, data in files.items() if TOKEN.encode() in data] == []


def failures(child: subprocess.Popen, hub: FakeHub, fault: str) -> int:
    """Return the number of the child's calls that fail under a fault."""
    hub.faults.clear()
    hub.fail("*", times=None, **FAULTS[fault])
    child.stdin.write(f"{fault}\n")
    child.stdin.flush()
    return int(child.stdout.readline())
