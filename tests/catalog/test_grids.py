"""Whole published grids: every name of them is read, tokens exactly, and sorts in training order."""

from collections.abc import Sequence
from random import Random

import pytest

from pipeline.catalog.families import find_family, get_family

PYTHIA = (0, *(2**n for n in range(10)), *range(1000, 144_000, 1000))
STANFORD = (*range(0, 100, 10), *range(100, 2000, 50), *range(2000, 20_000, 100), *range(20_000, 401_000, 1000))
MULTIBERTS = (*range(0, 220_000, 20_000), *range(300_000, 2_100_000, 100_000))
BLOOM = (1000, 10_000, *range(100_000, 700_000, 100_000))
BLOOM_1B7 = (1000, *range(50_000, 350_000, 50_000))

RUNS = {
    **dict.fromkeys(get_family("pythia").expanded_ids),
    **{f"EleutherAI/pythia-410m-seed{seed}": str(seed) for seed in range(1, 10)},
    **{f"EleutherAI/pythia-160m-{part}-seed{n}": f"{part}-seed{n}" for part in ("data", "weight") for n in (1, 2, 3)},
}
MISTRALS = [repo for repo in get_family("stanford-gpt2").expanded_ids if "small" in repo]


def reads(repo: str, template: str, steps: Sequence[int], tokens_per_step: int | None, run: str | None) -> None:
    """The names of a grid, in any order, have their steps and tokens, and sort as training went."""
    one = find_family(repo)
    places = {template.format(step): one.parse_name(repo, template.format(step)) for step in steps}
    shuffled = Random(0).sample(list(places.items()), len(places))
    found = [place for _, place in shuffled if place is not None and not one.is_generic]
    assert len(found) == len(steps)
    ordered = sorted(found, key=one.sort_key)
    tokens = [step * tokens_per_step if tokens_per_step else None for step in steps]
    assert [(place.step, place.tokens, place.run) for place in ordered] == [
        (step, seen, run) for step, seen in zip(steps, tokens, strict=True)
    ]
    assert not any(one.skips(name) for name in places)


@pytest.mark.parametrize("repo", RUNS)
def test_the_154_steps_of_a_pythia(repo: str) -> None:
    assert len(PYTHIA) == 154
    reads(repo, "step{}", PYTHIA, 2_097_152, RUNS[repo])


@pytest.mark.parametrize("repo", MISTRALS)
def test_the_609_steps_of_a_stanford_gpt2(repo: str) -> None:
    assert (len(STANFORD), len(MISTRALS)) == (609, 5)
    reads(repo, "checkpoint-{}", STANFORD, 512 * 1024, repo.removeprefix("stanford-crfm/"))


@pytest.mark.parametrize("seed", range(5))
def test_the_28_steps_of_a_multiberts_seed_and_its_start(seed: int) -> None:
    """One repo each, of one model; that of step 0 is the untrained one."""
    one, model = get_family("multiberts"), f"google/multiberts-seed_{seed}"
    repos = [f"{model}-step_{step // 1000}k" for step in MULTIBERTS]
    assert len(repos) == 1 + 28
    assert set(one.list_repos(f"*-seed_{seed}-*")) == set(repos)
    assert {one.model_of(repo) for repo in repos} == {model}
    places = [find_family(repo).parse_name(repo, repo.split("/")[1]) for repo in Random(seed).sample(repos, len(repos))]
    ordered = sorted((place for place in places if place), key=one.sort_key)
    assert [(place.step, place.tokens, place.run) for place in ordered] == [
        (step, step * 256 * 512, str(seed)) for step in MULTIBERTS
    ]


@pytest.mark.parametrize("size", ["560m", "1b1", "1b7", "3b", "7b1"])
def test_the_tags_of_a_bloom(size: str) -> None:
    """Its publisher states no tokens per step."""
    steps = BLOOM_1B7 if size == "1b7" else BLOOM
    assert len(steps) == (7 if size == "1b7" else 8)
    reads(f"bigscience/bloom-{size}-intermediate", "global_step{}", steps, None, None)


def test_the_1446_steps_of_olmo_1b_0724() -> None:
    """Tokens are rounded in its names, and are as the names say."""
    repo = "allenai/OLMo-1B-0724-hf"
    tokens = {step: round(step * 2_097_152 / 10**9) for step in range(1000, 1_447_000, 1000)}
    one = find_family(repo)
    places = [one.parse_name(repo, f"step{step}-tokens{seen}B") for step, seen in reversed(tokens.items())]
    ordered = sorted((place for place in places if place), key=one.sort_key)
    assert len(ordered) == 1446
    assert [(place.step, place.tokens) for place in ordered] == [(step, seen * 10**9) for step, seen in tokens.items()]


def test_the_359_checkpoints_of_amber() -> None:
    """They count chunks of data, not steps, so that neither step nor tokens are claimed."""
    one = find_family("LLM360/Amber")
    places = [one.parse_name("LLM360/Amber", f"ckpt_{chunk:03}") for chunk in reversed(range(359))]
    ordered = sorted((place for place in places if place), key=one.sort_key)
    assert [(place.position, place.step, place.tokens) for place in ordered] == [(n, None, None) for n in range(359)]
