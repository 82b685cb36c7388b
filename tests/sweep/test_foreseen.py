"""Failures that a plan tells before any weights are read, and that the run then has."""

import json
from pathlib import Path

import pytest

from pipeline.lake import Lake
from pipeline.spec import Sweep
from pipeline.sweep.plan import Plan, make_plan
from pipeline.sweep.run import run
from tests.support import tiny_checkpoints as tiny


def plan(root: Path, text: Path, lake: Lake, **recipe: object) -> Plan:
    fields = {
        "name": "t",
        "checkpoints": [{"local": str(root)}],
        "corpora": [{"text": str(text)}, "random-uniform"],
        "recipe": tiny.RECIPE | recipe,
        "resources": {"cpus": 1, "slots": 1},
    }
    return make_plan(Sweep.model_validate(fields), lake)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny.history(tmp_path / "runs", [0, 1])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return tiny.text(tmp_path / "prose.txt")


def without_tokenizer(folder: Path, text: Path) -> str:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return "no tokenizer files"


def of_unknown_architecture(folder: Path, text: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "foo", "architectures": ["FooLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return "no known architecture"


def with_a_short_text(folder: Path, text: Path) -> str:
    text.write_text("A short text.")
    return "13 bytes, too few for 768 tokens"


@pytest.mark.parametrize("spoil", [without_tokenizer, of_unknown_architecture, with_a_short_text])
def test_what_is_foreseen_fails(spoil, root, text, tmp_path):
    says, lake = spoil(root / "step1", text), Lake(tmp_path / "lake")
    wanted = plan(root, text, lake)
    (failure,) = wanted.foreseen
    assert says in failure.says
    assert "runs@step1" in failure.labels
    failed = {cell.checkpoint.label for cell, _ in run(wanted, lake, "inline").failures.values()}
    assert failed == set(failure.labels)


def test_nothing_is_foreseen_of_a_sound_history_or_of_a_recipe_for_small_texts(root, text, tmp_path):
    assert plan(root, text, Lake(tmp_path / "lake")).foreseen == ()
    with_a_short_text(root, text)
    assert plan(root, text, Lake(tmp_path / "lake"), name="small", allow_smaller=True).foreseen == ()


def test_the_plan_prints_it_and_has_it_in_json(root, text, tmp_path, shapelake):
    sweep = tiny.sweep_file(tmp_path, root)
    without_tokenizer(root / "step0", text)
    _, out, _ = shapelake("plan", sweep, "--lake", tmp_path / "lake")
    assert "will fail runs@step0: no tokenizer files; name a folder or repo" in out
    _, out, _ = shapelake("plan", sweep, "--lake", tmp_path / "lake", "--json")
    (failure,) = json.loads(out)["foreseen"]
    assert failure["labels"] == ["runs@step0"]
