"""The token goes to the endpoint and nowhere else: no other host, no file, no log line, no exception."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.catalog import client
from pipeline.catalog.fetch import fetched
from pipeline.errors import UsageError
from pipeline.spec import Checkpoint, HubFile, Remote
from tests.hub.fake import FakeHub

REPO = "org/model"
TOKEN = "hf_MySecretThatNobodyMaySee1234567890"
FILES = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"w" * 3000}


def checkpoint(hub: FakeHub) -> Checkpoint:
    sha = hub.repo(REPO).commit(FILES, "step1")
    listed = tuple(HubFile(path=n, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in FILES.items())
    return Checkpoint(
        **dict(model=REPO, revision="step1", path="", tokenizer_path="", kinds=("decoder",)),
        **dict(remote=Remote(repo=REPO, commit=sha, files=listed)),
        **dict(weights_digest="w", config_digest="c", tokenizer_digest="t"),
    )


def test_the_token_is_sent_to_the_endpoint_and_to_no_other_host(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repo(REPO).gated = True
    hub.repo(REPO).granted.add(TOKEN)
    hub.fail("/cdn/*", cut=100)
    wanted = checkpoint(hub)
    sha = client.refs(REPO).branches["step1"]
    for entry in client.tree(REPO, sha):
        client.read(REPO, sha, entry)
    assert not client.is_held(REPO, sha)
    client.repos("org")
    with fetched(wanted, "run") as here:
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
    client.refs(REPO)
    assert [(request.port == hub.port, request.authorized) for request in hub.requests] == [
        (True, True),
        (False, False),
    ]


@pytest.mark.parametrize("character", ["\x01", "\x7f", "é", "…"])
def test_a_token_that_no_header_can_carry_is_not_quoted(hub, monkeypatch, character):
    monkeypatch.setenv("HF_TOKEN", TOKEN + character)
    with pytest.raises(UsageError, match="HF_TOKEN") as error:
        client.refs(REPO)
    assert TOKEN not in str(error.value)
    assert not hub.requests


FAULTS = {
    "none": {},
    "refused": dict(pattern="*", status=401, times=None),
    "forbidden": dict(pattern="*", status=403, times=None),
    "busy": dict(pattern="*", status=503, times=None),
    "full": dict(pattern="*", status=429, headers={"Retry-After": "100000"}, times=None),
    "broken": dict(pattern="*", status=400, times=None),
    "flipped": dict(pattern="*", flip=1, times=None),
    "truncated": dict(pattern="*", cut=1, times=None),
    "stalled": dict(pattern="*", stall=30.0, times=None),
}
CHILD = """
import logging, pickle, sys, time, traceback
logging.basicConfig(level=logging.DEBUG)
import huggingface_hub.file_download
from pipeline.catalog import client, fetch, wire
from pipeline.spec import Checkpoint
wire.FIRST_WAIT_S, wire.TIMEOUT_S, wire.constants.HF_HUB_DOWNLOAD_TIMEOUT = 0.001, 0.1, 0.1
huggingface_hub.file_download.time = type("quick", (), {"sleep": staticmethod(lambda s: None)})
wanted = Checkpoint.model_validate_json(sys.argv[1])
repo, commit = wanted.remote.repo, wanted.remote.commit
entry = client.Entry(path="config.json", size=1, oid="0" * 40, sha256=None)
for call in (
    lambda: client.refs(repo), lambda: client.tree(repo, commit), lambda: client.repos("org"),
    lambda: client.read(repo, commit, entry), lambda: client.is_held(repo, commit), lambda: fetch.fetch(wanted, "run"),
):
    try:
        call()
    except Exception as error:
        traceback.print_exc()
        print(repr(error), pickle.dumps(error), vars(error))
        while error := error.__cause__ or error.__context__:
            print(repr(error), [str(arg) for arg in error.args])
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_the_token_is_in_no_file_no_log_line_and_no_exception(hub, tmp_path, fault):
    wanted = checkpoint(hub)
    if fault != "none":
        hub.fail(**FAULTS[fault])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, wanted.model_dump_json()],
        env={**os.environ, "HF_TOKEN": TOKEN, "HF_DEBUG": "1"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert any(request.authorized for request in hub.requests)
    assert (b"Traceback" in done.stderr) == (fault != "none" or b"damaged" in done.stderr)
    assert TOKEN.encode() not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
