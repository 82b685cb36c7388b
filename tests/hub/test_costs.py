"""Requests per discovery: cold, warm and after a commit; and trees are fetched in parallel."""

import time

import pytest

from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.revision_resolver import PARALLEL_REQUESTS, map_in_parallel
from pipeline.errors import FetchError
from pipeline.spec import Hub
from tests.support.fake_hub import FakeHub
from tests.support.hub_folders import TOKENIZER, discover_one, pythia, sharded


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
