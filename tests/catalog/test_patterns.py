"""Names of checkpoint folders: a pattern in the source, bare numbers, and patterns that are refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.local_histories import discover_history, inspect_checkpoint
from pipeline.errors import UsageError
from pipeline.spec import Local


def checkpoint(folder: Path, content: str = "weights") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    (folder / "model.safetensors").write_text(content)


def points(root: Path, pattern: str | None = None) -> list[tuple[str, int | None, int | None]]:
    (history,) = discover_histories(Local(local=str(root), pattern=pattern))
    return [(c.revision, c.step, c.tokens_seen) for c in history.checkpoints]


@pytest.mark.parametrize(
    ("names", "pattern", "found"),
    [
        (("e1_b20", "e0_b5"), r"e\d+_b(?P<step>\d+)", [("e0_b5", 5, None), ("e1_b20", 20, None)]),
        (("2.5B", "10B"), r"(?P<tokens>[\d.]+)(?P<unit>B)", [("2.5B", None, 25 * 10**8), ("10B", None, 10**10)]),
        (("x7k", "x10"), r"x(?P<step>\d+)(?P<kilo>k?)", [("x10", 10, None), ("x7k", 7000, None)]),
        (("[a] 3", "[a] 12"), r"\[a\] (?P<step>\d+)", [("[a] 3", 3, None), ("[a] 12", 12, None)]),
    ],
)
def test_a_pattern_reads_the_names(
    names: tuple[str, ...], pattern: str, found: list[tuple[str, int | None, int | None]], tmp_path: Path
) -> None:
    for name in names:
        checkpoint(tmp_path / name, name)
    checkpoint(tmp_path / "step1")
    assert points(tmp_path, pattern) == found


def test_bare_numbers_are_steps_only_of_checkpoints(tmp_path: Path) -> None:
    for name in ("9", "100"):
        checkpoint(tmp_path / name, name)
    (tmp_path / "2024").mkdir()
    assert points(tmp_path) == [("9", 9, None), ("100", 100, None)]
    found = inspect_checkpoint(tmp_path / "100")
    assert (found.model, found.revision, found.step) == (tmp_path.name, "100", 100)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("step(", "not a regular expression"), (r"step\d+", "has no group"), (r"(?P<step>\d+)(?P<x>.)", "unknown groups")],
)
def test_patterns_without_a_step_are_refused(pattern: str, found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        Local(local="x", pattern=pattern)


def test_a_group_that_is_no_number_and_names_without_a_match(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run-five")
    with pytest.raises(UsageError, match="must be numbers"):
        discover_history(Local(local=str(tmp_path), pattern=r"run-(?P<step>\w+)"))
    checkpoint(tmp_path / "warmup-step5")
    with pytest.raises(UsageError, match="stage must be numbers"):
        discover_history(Local(local=str(tmp_path), pattern=r"(?P<stage>\w+)-step(?P<step>\d+)"))
    with pytest.raises(UsageError, match="pattern: 'x"):
        discover_history(Local(local=str(tmp_path), pattern=r"(?P<step>\d+)"))
