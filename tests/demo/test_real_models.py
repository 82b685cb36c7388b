"""`demo --real` from sweep to report, with two tiny checkpoints in place of the trained models."""

from pathlib import Path

import pytest

from pipeline.demo import real_models
from pipeline.lake import Lake
from pipeline.recipe import RECIPE_ADAPTER, built_in_recipe
from tests.support import tiny_checkpoints as tiny


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    folders = {name: tiny.checkpoint(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    for folder in folders.values():
        tiny.tokenizer().save_pretrained(folder)
    monkeypatch.setattr(real_models, "provide_trained_models", lambda: folders)
    monkeypatch.setattr(real_models, "built_in_recipe", lambda _: RECIPE_ADAPTER.validate_python(tiny.RECIPE))
    return folders


def test_it_measures_both_on_text_and_random_tokens_and_ends_with_a_report(checkpoints, tmp_path, shapelake):
    code, out, err = shapelake("demo", "--real", "--folder", tmp_path / "demo")
    assert code == 0, err
    for model in checkpoints:
        assert f"{model} (decoder) on text:prose" in out
        assert f"{model} (decoder) on random-uniform" in out
    assert out.count("without sinks") == 4
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    assert len(Lake(tmp_path / "demo" / "lake").committed_cell_ids()) == 4
    again = shapelake("demo", "--real", "--folder", tmp_path / "demo")
    assert again[:2] == (0, out)
    assert "starting inline" not in again[2]


def test_a_checkpoint_that_cannot_be_read_is_named_and_gives_exit_code_1(checkpoints, tmp_path, shapelake):
    (checkpoints["two"] / "model.safetensors").write_bytes(b"")
    code, out, _ = shapelake("demo", "--real", "--folder", tmp_path / "demo")
    assert code == 1
    assert "FAILED    two@main text:prose" in out


def test_the_recipe_has_four_groups_of_five_hundred_points():
    recipe = built_in_recipe("real@1")
    assert (recipe.groups, recipe.contexts * recipe.kept_per_context) == (4, 640)
