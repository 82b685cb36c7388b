"""Complete published grids: every name parses, token counts are exact, and names sort in training order."""

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


def check_grid(repo: str, template: str, steps: Sequence[int], tokens_per_step: int | None, run: str | None) -> None:
    """Assert that the shuffled names of a grid parse to their steps and tokens, and sort in training order."""
    family = find_family(repo)
    points = {template.format(step): family.parse_name(repo, template.format(step)) for step in steps}
    shuffled = Random(0).sample(list(points.items()), len(points))
    parsed = [point for _, point in shuffled if point is not None and not family.is_generic]
    assert len(parsed) == len(steps)
    ordered = sorted(parsed, key=family.sort_key)
    tokens = [step * tokens_per_step if tokens_per_step else None for step in steps]
    assert [(point.step, point.tokens, point.run) for point in ordered] == [
        (step, count, run) for step, count in zip(steps, tokens, strict=True)
    ]
    assert not any(family.skips(name) for name in points)


@pytest.mark.parametrize("repo", RUNS)
def test_the_154_steps_of_a_pythia(repo: str) -> None:
    assert len(PYTHIA) == 154
    check_grid(repo, "step{}", PYTHIA, 2_097_152, RUNS[repo])


@pytest.mark.parametrize("repo", MISTRALS)
def test_the_609_steps_of_a_stanford_gpt2(repo: str) -> None:
    assert (len(STANFORD), len(MISTRALS)) == (609, 5)
    check_grid(repo, "checkpoint-{}", STANFORD, 512 * 1024, repo.removeprefix("stanford-crfm/"))


@pytest.mark.parametrize("seed", range(5))
def test_the_28_steps_of_a_multiberts_seed_and_its_start(seed: int) -> None:
    """Each checkpoint of a model has a separate repo; step 0 is the untrained model."""
    family, model = get_family("multiberts"), f"google/multiberts-seed_{seed}"
    repos = [f"{model}-step_{step // 1000}k" for step in MULTIBERTS]
    assert len(repos) == 1 + 28
    assert set(family.list_repos(f"*-seed_{seed}-*")) == set(repos)
    assert {family.model_of(repo) for repo in repos} == {model}
    points = [find_family(repo).parse_name(repo, repo.split("/")[1]) for repo in Random(seed).sample(repos, len(repos))]
    ordered = sorted((point for point in points if point), key=family.sort_key)
    assert [(point.step, point.tokens, point.run) for point in ordered] == [
        (step, step * 256 * 512, str(seed)) for step in MULTIBERTS
    ]


@pytest.mark.parametrize("size", ["560m", "1b1", "1b7", "3b", "7b1"])
def test_the_tags_of_a_bloom(size: str) -> None:
    """BLOOM's publisher states no tokens per step."""
    steps = BLOOM_1B7 if size == "1b7" else BLOOM
    assert len(steps) == (7 if size == "1b7" else 8)
    check_grid(f"bigscience/bloom-{size}-intermediate", "global_step{}", steps, None, None)


def test_the_1446_steps_of_olmo_1b_0724() -> None:
    """The names have rounded token counts, which take precedence over step times batch size."""
    repo = "allenai/OLMo-1B-0724-hf"
    tokens = {step: round(step * 2_097_152 / 10**9) for step in range(1000, 1_447_000, 1000)}
    family = find_family(repo)
    points = [family.parse_name(repo, f"step{step}-tokens{count}B") for step, count in reversed(tokens.items())]
    ordered = sorted((point for point in points if point), key=family.sort_key)
    assert len(ordered) == 1446
    assert [(p.step, p.tokens) for p in ordered] == [(step, count * 10**9) for step, count in tokens.items()]


def test_the_359_checkpoints_of_amber() -> None:
    """Amber's names count chunks of data, so step and tokens stay unknown."""
    family = find_family("LLM360/Amber")
    points = [family.parse_name("LLM360/Amber", f"ckpt_{chunk:03}") for chunk in reversed(range(359))]
    ordered = sorted((point for point in points if point), key=family.sort_key)
    assert [(point.position, point.step, point.tokens) for point in ordered] == [(n, None, None) for n in range(359)]
