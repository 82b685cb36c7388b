"""Resolution of one checkpoint on the Hub by branch, commit, subfolder or repo."""

import pytest

from pipeline.catalog.discovery import resolve_checkpoint
from pipeline.errors import UsageError
from pipeline.spec import Hub
from tests.support.fake_hub import FakeHub
from tests.support.hub_folders import TOKENIZER, checkpoint, discover_one, pythia


def test_one_checkpoint_costs_one_tree(hub: FakeHub) -> None:
    pythia(hub).commit(checkpoint("odd"), branch="an-odd-name")
    found = resolve_checkpoint(Hub(hub="EleutherAI/pythia-14m"), "step1")
    assert len(hub.asked("*/tree/*")) == 1
    assert found == discover_one(Hub(hub="EleutherAI/pythia-14m")).checkpoints[1]
    assert resolve_checkpoint(Hub(hub="EleutherAI/pythia-14m"), "an-odd-name").step is None
    with pytest.raises(UsageError, match="no such branch or tag"):
        resolve_checkpoint(Hub(hub="EleutherAI/pythia-14m"), "step3")


def test_a_commit_is_the_branch_that_points_at_it_or_stands_for_itself(hub: FakeHub) -> None:
    repo, source = pythia(hub), Hub(hub="EleutherAI/pythia-14m")
    old = repo.branches["step1"]
    assert resolve_checkpoint(source, old) == resolve_checkpoint(source, "step1")
    repo.commit({"README.md": b"moved on"}, branch="step1")
    found = resolve_checkpoint(source, old)
    assert (found.revision, found.commit_sha, found.step) == (old, old, None)
    assert found.content == resolve_checkpoint(source, "step1").content
    with pytest.raises(UsageError, match="does not have"):
        resolve_checkpoint(source, "0" * 40)


def test_one_checkpoint_in_a_sub_folder(hub: FakeHub) -> None:
    repo = hub.repo("m-a-p/neo_scalinglaw_250M")
    repo.commit({f"hf_ckpt/4.19B/{name}": data for name, data in checkpoint("neo").items()})
    hub.repo("m-a-p/neo_7b").commit(dict(TOKENIZER))
    assert resolve_checkpoint(Hub(hub="m-a-p/neo_scalinglaw_250M"), "hf_ckpt/4.19B").tokens_seen == 4_190_000_000
    for wrong in ("hf_ckpt/5B", "main"):
        with pytest.raises(UsageError, match="no such checkpoint"):
            resolve_checkpoint(Hub(hub="m-a-p/neo_scalinglaw_250M"), wrong)


def test_one_checkpoint_with_a_repo_of_its_own(hub: FakeHub) -> None:
    """The checkpoint resolves by its repo, and by its revision name in the history."""
    name = "multiberts-seed_0-step_20k"
    hub.repo(f"google/{name}").commit(checkpoint("bert", name="pytorch_model.bin"))
    found = resolve_checkpoint(Hub(hub=f"google/{name}"))
    assert (found.model, found.revision, found.step) == ("google/multiberts-seed_0", name, 20_000)
    assert resolve_checkpoint(Hub(hub=f"google/{name}"), name) == found
