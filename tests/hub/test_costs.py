"""Requests per discovery: cold, warm, after a commit and after a cut; and trees are fetched in parallel."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from pipeline import progress
from pipeline.catalog import hub_limits, revision_resolver
from pipeline.catalog.discovery import discover_all, discover_histories
from pipeline.catalog.hub_limits import RateLimit
from pipeline.catalog.revision_resolver import PARALLEL_REQUESTS, map_in_parallel
from pipeline.errors import FetchError
from pipeline.spec import Hub, Members
from tests.support.fake_hub import FakeHub
from tests.support.hub_folders import TOKENIZER, discover_one, pythia, sharded

SIZES = ("14m", "31m", "70m")


def test_cold_costs_refs_a_tree_per_commit_and_each_small_file_once(hub: FakeHub) -> None:
    """One more request checks the permission to read files."""
    repo = pythia(hub, steps=(0, 1, 2, 4, 8))
    repo.commit({**sharded("a", "b"), "config.json": b'{"other": 1}'}, branch="step16")
    repo.branches["main"] = repo.branches["step8"]
    discover_one(Hub(hub="EleutherAI/pythia-14m"))
    assert len(hub.asked("*/refs")) == 1
    assert len(hub.asked("*/tree/*")) == len(repo.commits) - 1
    permission = "config.json"
    small = [permission, *["config.json"] * 2, "model.safetensors.index.json", *TOKENIZER]
    assert sorted(request.path.split("/")[-1] for request in hub.asked("*/resolve/*")) == sorted(small)
    assert len(hub.requests) == 1 + len(repo.commits) - 1 + len(small)


def test_warm_over_twenty_repos_makes_exactly_twenty_requests(hub: FakeHub) -> None:
    repos = [f"EleutherAI/pythia-{size}-seed{seed}" for size in ("14m", "31m", "70m", "160m") for seed in range(1, 6)]
    for name in repos:
        pythia(hub, name, steps=(0, 1))
    cold = [discover_histories(Hub(hub=name)) for name in repos]
    before = len(hub.requests)
    assert [discover_histories(Hub(hub=name)) for name in repos] == cold
    assert [request.path for request in hub.requests[before:]] == [f"/api/models/{name}/refs" for name in repos]


def test_a_commit_to_the_readme_costs_one_tree_and_changes_no_digest(hub: FakeHub) -> None:
    repo = pythia(hub)
    before = discover_one(Hub(hub="EleutherAI/pythia-14m"))
    hub.requests.clear()
    repo.commit({"README.md": b"more about"}, branch="step512")
    after = discover_one(Hub(hub="EleutherAI/pythia-14m"))
    assert len(hub.asked("*/refs")) == len(hub.asked("*/tree/*")) == 1
    assert len(hub.requests) == 2
    assert [r.weights_digest for r in after.revisions] == [r.weights_digest for r in before.revisions]
    assert [r.commit == s.commit for r, s in zip(before.revisions, after.revisions, strict=True)].count(False) == 1


def test_trees_are_read_side_by_side_and_the_first_failure_ends_it() -> None:
    assert map_in_parallel(lambda n: n * n, list(range(100)), "Squaring", "numbers") == [n * n for n in range(100)]
    tried: list[int] = []

    def fails(number: int) -> None:
        tried.append(number)
        time.sleep(0.002)
        raise FetchError(f"tree {number}", "no answer", "Run again once the Hub responds")

    with pytest.raises(FetchError):
        map_in_parallel(fails, list(range(1000)), "Failing", "trees")
    assert len(tried) < 1000
    assert PARALLEL_REQUESTS <= 8


def test_cold_over_several_repos_costs_refs_and_permission_per_repo_and_a_tree_per_commit(hub: FakeHub) -> None:
    """Sources that name a repo or a tokenizer again cost nothing; config and tokenizer are equal everywhere."""
    names = [f"EleutherAI/pythia-{size}" for size in SIZES]
    for name in names:
        pythia(hub, name, steps=(0, 1, 2, 4))
    tokenizer = hub.repo("lab/tokenizer")
    tokenizer.commit(dict(TOKENIZER))
    sources = [Hub(hub=name, tokenizer="lab/tokenizer") for name in names]
    family = Members(family="pythia", models="*-14m")
    histories = discover_all([*sources, family, sources[0]])
    assert [history.model for history in histories] == [*names, names[0], names[0]]
    assert histories[0] == histories[-1]
    asked = Counter(re.sub(r"^.*/(refs|tree|resolve)($|/.*)", r"\1", request.path) for request in hub.requests)
    assert asked == {"refs": 3 + 1, "tree": 3 * 5 + 1, "resolve": 3 + 1 + len(TOKENIZER)}
    order = [
        "tree" in request.path for request in hub.requests if "/tree/" in request.path or "/pythia" in request.path
    ]
    assert order[:3] == [False] * 3, "refs of all repos come first"


def test_a_discovery_that_was_cut_off_repeats_no_tree(hub: FakeHub) -> None:
    """A failure in the middle ends the first; the second requests the refs again, and only the trees that are left."""
    sources = [Hub(hub=pythia(hub, f"EleutherAI/pythia-{size}", steps=tuple(range(20))).id) for size in SIZES]
    hub.fail(f"*/tree/{hub.repos[sources[1].hub].branches['step3']}", status=400)
    with pytest.raises(Exception, match="400"):
        discover_all(sources)
    before = {request.path for request in hub.asked("*/tree/*") if request.status == 200}
    assert 0 < len(before) < 3 * 21
    hub.requests.clear()
    discover_all(sources)
    assert not before & {request.path for request in hub.asked("*/tree/*")}
    assert len(hub.asked("*/tree/*")) == 3 * 21 - len(before)
    assert len(hub.asked("*/refs")) == 3


def test_a_killed_discovery_repeats_no_answered_request(hub: FakeHub) -> None:
    """A child process gets SIGKILL while all its requests hang; what had been answered is not requested again."""
    names = [pythia(hub, f"EleutherAI/pythia-{size}", steps=tuple(range(20))).id for size in SIZES]
    script = (
        "import sys\nfrom pipeline.catalog.discovery import discover_all\nfrom pipeline.spec import Hub\n"
        "discover_all([Hub(hub=name) for name in sys.argv[1:]])\n"
    )
    stalled = list(hub.repos[names[1]].commits)
    for commit in stalled:
        hub.fail(f"*/tree/{commit}", stall=60.0)
    child = subprocess.Popen([sys.executable, "-c", script, *names])
    while len([request for request in hub.asked("*/tree/*") if request.path[-40:] in stalled]) < PARALLEL_REQUESTS:
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    answered = {request.path for request in hub.asked("*/tree/*") if request.path[-40:] not in stalled}
    assert len(answered) == 21
    hub.faults.clear()
    hub.requests.clear()
    assert len(discover_all([Hub(hub=name) for name in names])) == 3
    assert len(hub.asked("*/tree/*")) == 2 * 21
    assert not answered & {request.path for request in hub.asked("*/tree/*")}


def test_the_expected_end_is_told_with_the_waits_for_the_rate_limit(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(revision_resolver, "RATE_LIMIT", limit := RateLimit())
    monkeypatch.setattr("pipeline.catalog.hub_http.RATE_LIMIT", limit)
    monkeypatch.setattr(revision_resolver, "TELL_EVERY_S", 0.1)
    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0.2)
    repo = pythia(hub, steps=tuple(range(30)))
    window = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=5;w=300'}
    hub.fail("*/tree/*", status=429, headers=window, times=8)
    discover_histories(Hub(hub=repo.id))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    said = r"0 of 31 requests, 1 wait for the rate limit, next request in 1 s, about 3\d min left"
    assert re.fullmatch(rf"Listing the files of {repo.id}: {said}", lines[0])


def test_the_time_under_a_rate_limit_is_that_of_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of 2026 without a token: 500 requests in 300 s, so 30,000 trees take five hours."""
    now = [1000.0]
    monkeypatch.setattr(hub_limits.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(hub_limits, "get_token", lambda: None)
    limit = RateLimit()
    assert limit.seconds_for(30_000) == 0.0
    assert limit.describe(30_000, 0.02) == ", about 10 min left"
    policy = {"ratelimit-policy": '"fixed window";"api";q=500;w=300'}
    limit.record_answer({"ratelimit": '"api";r=400;t=100', **policy})
    limit.record_answer(
        {"ratelimit": '"resolvers";r=3;t=9', "ratelimit-policy": '"fixed window";"resolvers";q=3000;w=300'}
    )
    assert [limit.seconds_for(n) for n in (400, 401, 900, 901)] == [0.0, 100.0, 100.0, 400.0]
    assert limit.describe(30_000, 0.02) == ", about 297 min left"
    for _ in range(8):
        limit.record_wait(90.0)
    assert (
        limit.describe(10, 0.1) == ", 1 wait for the rate limit, next request in 90 s, set HF_TOKEN for a higher limit"
    )
    now[0] += 150.0
    assert [limit.seconds_for(n) for n in (500, 501)] == [0.0, 300.0]
    monkeypatch.setattr(hub_limits, "get_token", lambda: "token")
    assert limit.describe(10, 0.1) == ", 1 wait for the rate limit"


def test_a_failure_ends_the_waits_of_the_other_requests(hub: FakeHub) -> None:
    repo = pythia(hub, steps=(0, 1, 2, 3))
    hub.fail("*/tree/*", status=429, headers={"Retry-After": "60"}, times=4)
    hub.fail("*/tree/*", status=400, times=None)
    start = time.monotonic()
    with pytest.raises(Exception, match="400"):
        discover_histories(Hub(hub=repo.id))
    assert time.monotonic() - start < 30
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
