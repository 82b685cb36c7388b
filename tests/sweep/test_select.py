"""Selection of checkpoints by `--steps` and of models by `--models`."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.local_histories import discover_history
from pipeline.catalog.revision_names import TrainingPoint, parse_name
from pipeline.errors import UsageError
from pipeline.spec import Checkpoint, Hub, Local, Members, Sweep
from pipeline.sweep.step_selection import select_checkpoints, select_sources
from tests.support import lake_rows
from tests.support import stub_checkpoints as stub


def steps_of(root: Path, steps: str) -> list[int | None]:
    return [c.step for c in select_checkpoints([discover_history(Local(local=str(root))).checkpoints], steps)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return stub.history(tmp_path / "runs", [0, 1, 4, 16, 64, 128, 256, 512, 1000, 2000, 3000])


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [
        ("all", [0, 1, 4, 16, 64, 128, 256, 512, 1000, 2000, 3000]),
        ("last", [3000]),
        ("every:1000", [0, 1000, 2000, 3000]),
        ("0,512,3000", [0, 512, 3000]),
        ("log2", [0, 1, 4, 16, 64, 128, 256, 512, 1000, 2000, 3000]),
        ("last,every:2000", [0, 2000, 3000]),
    ],
)
def test_steps(root, steps, chosen):
    assert steps_of(root, steps) == chosen


@pytest.mark.parametrize("steps", ["7", "every:0", "every:x", "every:", "log3", "\u00b2", ""])
def test_a_wrong_selection_says_what_is_right(root, steps):
    with pytest.raises(UsageError, match="step"):
        steps_of(root, steps)


@pytest.mark.parametrize(
    ("steps", "nearest"), [("every:7", "5, 11"), ("last,every:4", "5, 11"), ("6", "5, 11"), ("10", "11, 5")]
)
def test_a_selection_that_matches_nothing_says_the_nearest_steps(tmp_path, steps, nearest):
    root = stub.history(tmp_path / "runs", [5, 11])
    with pytest.raises(UsageError, match=f"no such step.\n.*nearest steps: {nearest}"):
        steps_of(root, steps)


def test_a_final_model_alone_is_its_own_last_and_states_no_step(tmp_path):
    root = stub.history(tmp_path, [1]) / "step1"
    root = root.rename(tmp_path / "final")
    assert steps_of(root, "all") == steps_of(root, "last") == steps_of(root, "log2") == [None]
    for steps in ("every:1", "5"):
        with pytest.raises(UsageError, match="no checkpoint states a step"):
            steps_of(root, steps)


def test_one_history_that_matches_is_enough(tmp_path):
    roots = [stub.history(tmp_path / name, [step]) for name, step in (("a", 5), ("b", 7))]
    histories = [discover_history(Local(local=str(root))).checkpoints for root in roots]
    assert [c.label for c in select_checkpoints(histories, "every:7")] == ["b@step7"]


def point(name: str, step: int | None = None, tokens: int | None = None) -> Checkpoint:
    """Checkpoint from STAGE.RUN.name, each part may be empty; `main` is a final model."""
    stage, run, _ = name.split(".") if "." in name else ("", "", name)
    return lake_rows.checkpoint(step, name, revision=name, tokens_seen=tokens, stage=stage or None, run=run or None)


def stages(*spans: tuple[str, int]) -> list[Checkpoint]:
    """Checkpoints at every step of each STAGE.RUN up to its last, and a final model."""
    return [*(point(f"{of}.{step}", step) for of, last in spans for step in range(1, last + 1)), point("main")]


SOUP = stages(("1.", 9), ("2.1", 4), ("2.2", 4))
SOUP_GOES_ON = stages(("1.", 9), ("3.", 2), ("2.1", 4), ("2.2", 4))
SEEDS = stages((".", 5), (".1", 5), (".2", 4))
NAMED = stages(("warm.", 3), ("decay.", 2))
BY_TOKENS = [point(f"{tokens}B", tokens=tokens) for tokens in (0, 3, 4, 5, 9, 16, 30)] + [point("main")]
IN_ORDER = [point(f"chunk{i}") for i in range(1, 10)]
MIXED = [point("1..a", 1), point("1..b", 2), point("1..c"), point("2..d", tokens=6), point("2..e", tokens=7)]


@pytest.mark.parametrize(
    ("history", "steps", "chosen"),
    [
        (SOUP, "last", "2.1.4 2.2.4"),
        (SOUP, "log2", "1..1 1..2 1..4 1..8 1..9 2.1.1 2.1.2 2.1.4 2.2.1 2.2.2 2.2.4"),
        (SOUP, "every:4", "1..4 1..8 2.1.4 2.2.4"),
        (SOUP, "9,3", "1..3 1..9 2.1.3 2.2.3"),
        (SOUP, "last,9", "1..9 2.1.4 2.2.4"),
        (SOUP_GOES_ON, "last", "3..2"),
        (SEEDS, "last", "..5 .1.5 .2.4"),
        (NAMED, "last", "decay..2"),
        (NAMED, "log2", "warm..1 warm..2 warm..3 decay..1 decay..2"),
        (BY_TOKENS, "last", "30B"),
        (BY_TOKENS, "log2", "0B 3B 4B 9B 16B 30B"),
        (IN_ORDER, "last", "chunk9"),
        (IN_ORDER, "log2", "chunk1 chunk2 chunk4 chunk8 chunk9"),
        (MIXED, "last", "2..e"),
        (MIXED, "log2", "1..a 1..b 2..d 2..e"),
    ],
)
def test_stages_runs_and_what_has_no_steps(history, steps, chosen):
    assert [c.revision for c in select_checkpoints([history], steps)] == chosen.split()


@pytest.mark.parametrize("history", [SOUP, SOUP_GOES_ON, SEEDS, NAMED, BY_TOKENS, IN_ORDER, MIXED])
def test_a_selection_is_a_part_of_the_history_in_its_order(history):
    for steps in ("all", "last", "log2", "last,log2"):
        chosen = select_checkpoints([history], steps)
        assert chosen
        assert list(chosen) == [c for c in history if c in chosen]
    last = select_checkpoints([history], "last")
    assert select_checkpoints([last], "last") == last
    assert list(select_checkpoints([history], "all")) == history


@pytest.mark.parametrize("steps", ["every:3", "3"])
def test_a_history_without_steps_gives_none_beside_one_that_has_them(steps):
    assert [c.step for c in select_checkpoints([IN_ORDER, [point("3", 3)]], steps)] == [3]
    for history in (IN_ORDER, BY_TOKENS):
        with pytest.raises(UsageError, match=r"no checkpoint states a step\.\nUse all, log2 or last"):
            select_checkpoints([history], steps)


@pytest.mark.parametrize("steps", ["all", "last", "log2", "every:3", "3"])
def test_of_nothing_nothing_is_chosen(steps):
    assert select_checkpoints([[], []], steps) == ()
    with pytest.raises(UsageError, match="not a valid selection"):
        select_checkpoints([[]], f"{steps},log3")


@pytest.mark.parametrize(
    ("glob", "chosen"),
    [
        ("*", ["EleutherAI/pythia-14m", "runs", "pythia"]),
        ("pythia-14m", ["EleutherAI/pythia-14m", "pythia"]),
        ("pythia-*", ["EleutherAI/pythia-14m", "pythia"]),
        ("EleutherAI/*", ["EleutherAI/pythia-14m", "pythia"]),
        ("run?", ["runs", "pythia"]),
    ],
)
def test_sources_by_their_names_with_or_without_an_owner(glob, chosen):
    at = [Hub(hub="EleutherAI/pythia-14m"), Local(local="/somewhere/runs"), Members(family="pythia")]
    sweep = Sweep.model_validate(
        {"name": "t", "checkpoints": at, "corpora": ["random-uniform"], "recipe": "quick@1", "models": glob}
    )
    assert [source.name for source in select_sources(sweep)] == chosen, "of a family only its members' names say"


def test_order_is_by_step_never_lexical(root):
    stub.history(root, [9, 10, 100])
    (root / "checkpoint-20").mkdir()
    assert steps_of(root, "all") == [0, 1, 4, 9, 10, 16, 20, 64, 100, 128, 256, 512, 1000, 2000, 3000]


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=20, unique=True))
def test_the_order_of_names_is_that_of_their_steps(steps):
    spellings = ("step{}", "checkpoint-{}", "global_step{}", "iter_{:07d}", "step{}-tokens2B")
    names = [spellings[i % len(spellings)].format(step) for i, step in enumerate(steps)]
    ordered = sorted(names, key=lambda name: parse_name(name).sort_key)  # type: ignore[union-attr]
    assert [parse_name(name).step for name in ordered] == sorted(steps)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("step512", TrainingPoint(512)),
        ("checkpoint-1000", TrainingPoint(1000)),
        ("global_step1000", TrainingPoint(1000)),
        ("iter_0002000", TrainingPoint(2000)),
        ("step1000-tokens2B", TrainingPoint(1000, 2 * 10**9, tokens_source="name")),
        ("step-480k-token-1007B", TrainingPoint(480_000, 1007 * 10**9, tokens_source="name")),
        ("step2627139-tokens15T", TrainingPoint(2627139, 15 * 10**12, tokens_source="name")),
        ("stage2-ingredient3-step500-tokens3B", TrainingPoint(500, 3 * 10**9, "2", "3", "name")),
        ("step29901-seed-default", TrainingPoint(29901, run="default")),
        ("ckpt_358", TrainingPoint(358)),
        *((name, None) for name in ("main", "logs", "step", "epoch_3", "step2step3", "checkpoint-1000-backup", "512")),
    ],
)
def test_names_say_what_they_say_and_no_more(name, place):
    assert parse_name(name) == place


def test_what_cannot_be_parsed_is_reported(root):
    for name in ("best", "logs"):
        (root / name).mkdir()
    (root / "best" / "config.json").write_text("{}")
    history = discover_history(Local(local=str(root)))
    assert (history.unparsed, history.ignored_names) == (("best",), ("logs",))


def test_a_folder_without_checkpoints_is_refused_in_two_lines(tmp_path):
    with pytest.raises(UsageError) as refused:
        discover_history(Local(local=str(tmp_path)))
    assert str(refused.value).count("\n") == 1
    assert "no checkpoint" in str(refused.value)
