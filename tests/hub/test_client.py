"""Hub client: one request per listing or small file, cached; retries transient errors, and reports permanent ones."""

import hashlib
import json
import time

import pytest

from pipeline import cache
from pipeline.catalog import hub_client, hub_http
from pipeline.errors import FetchError, UsageError
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_server import Handler

REPO = "org/model"
CONFIG = b'{"model_type": "gpt2"}'
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(hub_http, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def sha(hub: FakeHub) -> str:
    repo = hub.repo(REPO)
    sha = repo.commit({"config.json": CONFIG, "model.safetensors": WEIGHTS}, "step1")
    repo.tag("v1", sha)
    return sha


def entry(sha: str, path: str) -> hub_client.TreeEntry:
    return next(file for file in hub_client.fetch_tree(REPO, sha) if file.path == path)


def test_refs_cost_one_request_each_time(hub, sha):
    for n in (1, 2):
        assert hub_client.fetch_refs(REPO) == (REPO, {"step1": sha}, {"v1": sha})
        assert [request.path for request in hub.requests] == [f"/api/models/{REPO}/refs"] * n


def test_a_renamed_repository_gives_its_canonical_name_in_the_same_call(hub, sha):
    hub.rename(REPO, "new-org/model")
    found = hub_client.fetch_refs(REPO)
    assert (found.repo, found.branches) == ("new-org/model", {"step1": sha})
    assert [(request.path, request.status) for request in hub.requests] == [
        (f"/api/models/{REPO}/refs", 307),
        ("/api/models/new-org/model/refs", 200),
    ]


def test_a_tree_is_asked_for_once_and_needs_no_request_afterwards(hub, sha):
    hub.repo(REPO).commit({"sub/README.md": b"x"}, "step1")
    later = hub.repo(REPO).branches["step1"]
    files = {file.path: file for file in hub_client.fetch_tree(REPO, later)}
    assert set(files) == {"config.json", "model.safetensors", "sub/README.md"}
    assert files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert files["model.safetensors"].size == len(WEIGHTS)
    assert files["config.json"].sha256 is None
    assert len(hub.requests) == 1
    assert {file.path: file for file in hub_client.fetch_tree(REPO, later)} == files
    assert len(hub.requests) == 1
    hub_client.fetch_tree(REPO, sha)
    assert len(hub.requests) == 2


NO_REFS = {"branches": [], "tags": [], "converts": []}
UNNAMED = {"name": "step1", "targetCommit": "0" * 40}
BLOB = {"type": "file", "path": "config.json", "oid": "0" * 40}
DEEP, FOREIGN = b'{"a":' * 100_000, b'{"branches": "\xff"}'


@pytest.mark.parametrize(
    ("listing", "answer"),
    [
        *(
            ("refs", answer)
            for answer in ([], {}, None, DEEP, FOREIGN, {"error": "no"}, {**NO_REFS, "branches": [UNNAMED]})
        ),
        ("refs", {**NO_REFS, "tags": [{"name": "v1", "ref": "refs/tags/v1", "targetCommit": None}]}),
        *(("tree", answer) for answer in (None, [1], [{"type": "file"}], {"error": "no"}, [{**BLOB, "size": None}])),
        ("tree", [{**BLOB, "size": 3}, {**BLOB, "size": "large"}]),
        *(("models", answer) for answer in (None, [1], {"error": "no"}, [{"modelId": "org/x"}])),
    ],
)
def test_an_answer_that_is_no_listing_is_a_failure_that_may_pass_and_is_not_kept(
    hub, sha, monkeypatch, listing, answer
):
    call = {
        "refs": hub_client.fetch_refs,
        "tree": lambda repo: hub_client.fetch_tree(repo, sha),
        "models": lambda _: hub_client.list_model_ids("org"),
    }
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    with monkeypatch.context() as broken:
        broken.setattr(hub_http, "FIRST_WAIT_S", 0.001)
        broken.setattr(Handler, f"_{listing}", lambda self, *_: self._send(200, body, {}))
        with pytest.raises(FetchError, match="malformed listing") as error:
            call[listing](REPO)
    assert len(str(error.value).splitlines()) == 2
    assert call[listing](REPO)


def test_an_empty_tree_is_not_kept(hub, sha, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Handler, "_tree", lambda self, *_: self._json([]))
        assert hub_client.fetch_tree(REPO, sha) == ()
    assert len(hub_client.fetch_tree(REPO, sha)) == 2


@pytest.mark.parametrize("cached", [b"[]", b"", b"null", b'[{"path": "config.json"}]', b"[1]"])
def test_a_cached_tree_that_cannot_be_parsed_is_fetched_again(hub, sha, cached):
    tree = hub_client.fetch_tree(REPO, sha)
    (file,) = cache.folder("hub/trees").iterdir()
    file.write_bytes(cached)
    assert hub_client.fetch_tree(REPO, sha) == tree
    assert len(hub.asked("*/tree/*")) == 2


def test_a_tree_of_many_pages_is_whole(hub, monkeypatch):
    monkeypatch.setattr(FakeHub, "page", 3)
    sha = hub.repo("org/many").commit({f"part-{n}.json": b"%d" % n for n in range(8)})
    assert len(hub_client.fetch_tree("org/many", sha)) == 8
    assert len(hub.requests) == 3


def test_a_small_file_is_read_once_whatever_the_commit(hub, sha):
    assert hub_client.fetch_small_file(REPO, sha, entry(sha, "config.json")) == CONFIG
    later = hub.repo(REPO).commit({"README.md": b"x"}, "step1")
    before = len(hub.asked("*/resolve/*"))
    assert hub_client.fetch_small_file(REPO, later, entry(later, "config.json")) == CONFIG
    assert len(hub.asked("*/resolve/*")) == before == 1


def test_sha256_comes_from_the_listing_for_large_files_and_from_the_bytes_for_small_ones(hub, sha):
    assert hub_client.fetch_sha256(REPO, sha, entry(sha, "model.safetensors")) == hashlib.sha256(WEIGHTS).hexdigest()
    assert not hub.asked("*/resolve/*")
    assert hub_client.fetch_sha256(REPO, sha, entry(sha, "config.json")) == hashlib.sha256(CONFIG).hexdigest()


def test_a_large_file_too_can_be_read(hub, sha):
    assert hub_client.fetch_small_file(REPO, sha, entry(sha, "model.safetensors")) == WEIGHTS


def test_a_flipped_bit_in_a_small_file_is_not_believed(hub, sha):
    hub.fail("*/config.json", flip=3, times=1)
    assert hub_client.fetch_small_file(REPO, sha, entry(sha, "config.json")) == CONFIG
    assert len(hub.asked("*/config.json")) == 2


def test_a_small_file_that_stays_damaged_is_an_error_and_is_not_kept(hub, sha):
    hub.fail("*/config.json", flip=3, times=hub_http.MAX_ATTEMPTS)
    with pytest.raises(FetchError, match="damaged"):
        hub_client.fetch_small_file(REPO, sha, entry(sha, "config.json"))
    assert hub_client.fetch_small_file(REPO, sha, entry(sha, "config.json")) == CONFIG


@pytest.mark.parametrize(
    "headers",
    [{"Retry-After": "1"}, {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=5;w=9'}],
)
@pytest.mark.parametrize(
    "call", [hub_client.fetch_refs, lambda repo: hub_client.fetch_tree(repo, "0" * 40)], ids=["refs", "tree"]
)
def test_a_full_window_is_waited_for_as_long_as_the_hub_says(hub, sha, headers, call, monkeypatch):
    hub.repo(REPO).commits["0" * 40] = hub.repo(REPO).commits[sha]
    hub.fail("/api/*", status=429, headers=headers)
    call(REPO)
    first, second = hub.requests
    assert 1.0 <= second.at - first.at < 2.0


def test_a_wait_beyond_patience_fails_at_once(hub, sha):
    hub.fail("*/refs", status=429, headers={"Retry-After": "100000"}, times=None)
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"429.*100,000 s"):
        hub_client.fetch_refs(REPO)
    assert time.monotonic() - started < 1.0
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(hub, sha, status):
    hub.fail("*/refs", status=status, times=hub_http.MAX_ATTEMPTS - 1)
    assert hub_client.fetch_refs(REPO).branches == {"step1": sha}
    assert len(hub.requests) == hub_http.MAX_ATTEMPTS


@pytest.mark.parametrize(
    "call",
    [
        hub_client.fetch_refs,
        lambda repo: hub_client.fetch_tree(repo, "0" * 40),
        hub_client.list_model_ids,
        lambda repo: hub_client.is_access_denied(repo, "0" * 40),
    ],
    ids=["refs", "tree", "repos", "is_access_denied"],
)
def test_a_hub_that_stays_busy_gets_no_more_than_the_stated_tries(hub, sha, call):
    hub.fail("*", status=503, times=None)
    with pytest.raises(FetchError, match="503"):
        call(REPO)
    assert len(hub.requests) == hub_http.MAX_ATTEMPTS


def test_an_error_that_stays_is_not_asked_again(hub, sha):
    hub.fail("*/refs", status=403, times=None)
    with pytest.raises(UsageError, match="403") as error:
        hub_client.fetch_refs(REPO)
    assert "HF_TOKEN" in error.value.do
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda sha: hub_client.fetch_refs("org/absent"), "no such repository"),
        (lambda sha: hub_client.fetch_tree(REPO, "1" * 40), "no such revision"),
        (lambda sha: hub_client.fetch_refs("a/b/c"), "not a valid repository id"),
    ],
    ids=["repo", "revision", "name"],
)
def test_what_does_not_exist_is_said_so(hub, sha, call, found):
    with pytest.raises(UsageError, match=found):
        call(sha)
    assert len(hub.requests) <= 1


def test_an_answer_that_never_comes_is_given_up(hub, sha, monkeypatch):
    monkeypatch.setattr(hub_http, "TIMEOUT_S", 0.2)
    hub.fail("*/refs", stall=30.0, times=1)
    assert hub_client.fetch_refs(REPO).branches == {"step1": sha}
    hub.fail("*/tree/*", stall=30.0, times=None)
    with pytest.raises(FetchError, match="ReadTimeout"):
        hub_client.fetch_tree(REPO, sha)
    assert len(hub.asked("*/tree/*")) == hub_http.MAX_ATTEMPTS


def test_a_listing_that_breaks_off_is_asked_for_again(hub, sha):
    hub.fail("*/tree/*", cut=20)
    assert len(hub_client.fetch_tree(REPO, sha)) == 2


def test_no_hub_at_all_is_a_failure_that_may_pass(hub, sha, monkeypatch):
    monkeypatch.setattr(hub_client.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(FetchError, match="ConnectError"):
        hub_client.fetch_refs(REPO)


def test_a_gated_repository_lists_its_files_and_holds_them(hub, sha, monkeypatch):
    hub.repo(REPO).gated = True
    assert hub_client.fetch_refs(REPO).branches == {"step1": sha}
    assert hub_client.is_access_denied(REPO, sha)
    with pytest.raises(UsageError, match="gated"):
        hub_client.fetch_small_file(REPO, sha, entry(sha, "config.json"))
    hub.repo(REPO).granted.add("hf_granted")
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    assert not hub_client.is_access_denied(REPO, sha)
    assert hub_client.fetch_small_file(REPO, sha, entry(sha, "config.json")) == CONFIG


def test_that_files_may_be_read_is_remembered_of_the_token_that_may(hub, sha, monkeypatch):
    hub.repo(REPO).gated, hub.repo(REPO).granted = True, {"hf_granted"}
    for token, denied in (("hf_granted", False), ("hf_other", True), ("", True), ("hf_granted", False)):
        monkeypatch.setenv("HF_TOKEN", token)
        assert hub_client.is_access_denied(REPO, sha) == denied
    assert len(hub.asked("*/config.json")) == 3
    assert not any("hf_granted" in str(file) + file.read_text() for file in cache.folder("hub/open").iterdir())


def test_a_commit_without_a_config_is_not_held(hub):
    sha = hub.repo("org/readme").commit({"README.md": b"x"})
    assert not hub_client.is_access_denied("org/readme", sha)


def test_models_of_an_author_are_found_by_a_part_of_their_name(hub, sha):
    for name in ("org/b-seed2", "org/b-seed1", "other/b-seed3"):
        hub.repo(name)
    assert hub_client.list_model_ids("org", "seed") == ("org/b-seed1", "org/b-seed2")
    assert hub_client.list_model_ids("org") == ("org/b-seed1", "org/b-seed2", "org/model")


def test_offline_the_last_answers_count(hub, sha, monkeypatch):
    known = hub_client.fetch_refs(REPO), hub_client.fetch_tree(REPO, sha), hub_client.list_model_ids("org")
    asked = len(hub.requests)
    monkeypatch.setattr(hub_client.constants, "HF_HUB_OFFLINE", True)
    assert (hub_client.fetch_refs(REPO), hub_client.fetch_tree(REPO, sha), hub_client.list_model_ids("org")) == known
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        hub_client.fetch_refs("org/other")
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        hub_client.fetch_tree(REPO, "1" * 40)
    assert len(hub.requests) == asked


def test_a_long_wait_is_shown(hub, sha, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.progress.SHOW_AFTER_S", 0.2)
    hub.fail("*/refs", status=429, headers={"Retry-After": "1"})
    hub_client.fetch_refs(REPO)
    assert "Waiting for the Hub: 1 of 1 s" in capsys.readouterr().err


def test_nothing_is_said_to_the_hub_but_the_question(hub, sha):
    hub_client.fetch_refs(REPO)
    assert [request.path for request in hub.requests] == [f"/api/models/{REPO}/refs"]
    assert "torch" not in hub.requests[0].headers["user-agent"]
