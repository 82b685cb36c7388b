"""Generic parsing rule: stated values are exact, and missing values are not guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.revision_names import (
    TrainingPoint,
    has_enough_parsed_names,
    is_ignored_name,
    parse_name,
    run_sort_key,
)

B, T = 10**9, 10**12

PARSED = {
    "step512": TrainingPoint(512),
    "step0": TrainingPoint(0),
    "step-125000": TrainingPoint(125000),
    "step0005000": TrainingPoint(5000),
    "global_step600000": TrainingPoint(600000),
    "checkpoint-400000": TrainingPoint(400000),
    "checkpoint_0047000": TrainingPoint(47000),
    "iter_0002000": TrainingPoint(2000),
    "ckpt_000": TrainingPoint(0),
    "step-480k-token-1007B": TrainingPoint(480_000, 1007 * B, tokens_source="name"),
    "step1000-tokens4B": TrainingPoint(1000, 4 * B, tokens_source="name"),
    "step2627139-tokens15T": TrainingPoint(2627139, 15 * T, tokens_source="name"),
    "tokens16.78B": TrainingPoint(tokens=16_780_000_000, tokens_source="name"),
    "stage1-step010000-tokens21B": TrainingPoint(10000, 21 * B, "1", None, "name"),
    "stage2-ingredient3-step1000-tokens5B": TrainingPoint(1000, 5 * B, "2", "3", "name"),
    "stage3-step-4720000": TrainingPoint(4720000, stage="3"),
    "ba100": TrainingPoint(100),
    "ep0-ba100": TrainingPoint(100),
    "ep2-ba12500-rank0": TrainingPoint(12500),
    "step1000-unsharded": TrainingPoint(1000),
    "iter-000100-ckpt": TrainingPoint(100),
    "epoch=1-step=500": TrainingPoint(500),
    "epoch_3_step_1000": TrainingPoint(1000),
    "global_step_2000-hf": TrainingPoint(2000),
    "step29901-seed-default": TrainingPoint(29901, run="default"),
    "step-0334000_tokens-0700B-phase1": TrainingPoint(334000, 700 * B, "1", None, "name"),
}
UNPARSED = (
    *("main", "ext1000", "decay100", "deeper-starling", "it-SFT", "best", "stage1", "seed3", "", "fp32"),
    *("epoch3", "ep0", "hf", "ba", "ba1-ba2", "step1-ba2", "unsharded", "latest-unsharded", "ckpt"),
    *("TinyLlama-1.1B", "step1-step2", "step12x", "1000", "v1.0", "10B", "hf_ckpt/16.78B", "longctx-step500"),
)


@pytest.mark.parametrize("name", PARSED)
def test_a_name_is_read_exactly(name: str) -> None:
    assert parse_name(name) == PARSED[name]


@pytest.mark.parametrize("name", UNPARSED)
def test_an_unknown_name_is_not_parsed(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize("name", ["main", "refs/pr/3", "refs/convert/parquet", "pr/12", "v1", "v1.0.2", "0f" * 20])
def test_names_that_are_never_checkpoints(name: str) -> None:
    assert is_ignored_name(name)


@pytest.mark.parametrize("name", ["step1", "mainline", "1234567", "v1-step5", "0f" * 19, "pr/x"])
def test_other_names_can_be_checkpoints(name: str) -> None:
    assert not is_ignored_name(name)


@pytest.mark.parametrize(
    ("names", "applies"),
    [
        (["step1", "step2", "step3"], True),
        (["step1", "step2", "main", "v1.0", "refs/pr/1"], False),  # two
        (["step1", "step2", "step3", "step4", "best", "main", "pr/7"], True),  # four of five
        (["step1", "step2", "step3", "best"], False),  # three of four
        ([], False),
    ],
)
def test_the_rule_applies_to_a_repo_if_enough_names_parse(names: list[str], applies: bool) -> None:
    assert has_enough_parsed_names(names) is applies


@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_units_are_exact(step: int, count: int) -> None:
    """A float product is not exact: 16.78 * 1e9 == 16780000000.000002."""
    point = parse_name(f"step{step}-tokens{count // 100}.{count % 100:02}B")
    assert point == TrainingPoint(step, count * 10**7, tokens_source="name")


POINTS = st.builds(
    TrainingPoint,
    step=st.none() | st.integers(0, 10**7),
    tokens=st.none() | st.integers(0, 10**13),
    stage=st.none() | st.sampled_from("123"),
    run=st.none() | st.sampled_from(["1", "2", "10", "default"]),
)


@given(st.lists(POINTS), st.randoms(use_true_random=False))
def test_the_order_is_total_and_independent_of_the_input_order(points: list[TrainingPoint], random) -> None:
    shuffled = points[:]
    random.shuffle(shuffled)
    assert [p.sort_key for p in sorted(shuffled, key=lambda p: p.sort_key)] == sorted(p.sort_key for p in points)


def test_runs_are_ordered_by_number_then_by_name() -> None:
    assert sorted(["default", "10", None, "2", "a"], key=run_sort_key) == [None, "2", "10", "a", "default"]


def test_an_empty_point_sorts_last() -> None:
    assert TrainingPoint().sort_key > TrainingPoint(10**12, stage="9").sort_key
