"""Completeness of a checkpoint, judged from its files alone."""

import json

import pytest

from pipeline.watch.checkpoint_folder import list_checkpoint_folders, why_incomplete
from tests.support import watched_history


def test_a_whole_checkpoint_is_whole(tmp_path):
    assert why_incomplete(watched_history.write(tmp_path, 1)) is None


@pytest.mark.parametrize("size", [0, 4, 8, 40, -1])
def test_weights_cut_anywhere_are_not_whole(tmp_path, size):
    folder = watched_history.write(tmp_path, 1)
    (folder / "model.safetensors").write_bytes(watched_history.weights(1)[:size])
    assert "model.safetensors" in (why_incomplete(folder) or "")


def test_what_is_still_to_come_is_waited_for(tmp_path):
    folder = watched_history.write(tmp_path, 1, size=0)
    (folder / "model.safetensors").write_bytes(watched_history.weights(1))
    assert why_incomplete(folder) == "no tokenizer"
    assert why_incomplete(folder, own_tokenizer=False) is None
    (folder / "config.json").unlink()
    assert why_incomplete(folder) == "no config.json"
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in (why_incomplete(folder) or "")
    assert why_incomplete(tmp_path / "checkpoint-2") is not None


def test_shards_are_all_there_and_all_whole(tmp_path):
    folder = watched_history.write(tmp_path, 1)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "1 of 2 shards absent" in (why_incomplete(folder) or "")
    second = folder / "model-00002-of-00002.safetensors"
    second.write_bytes(watched_history.weights(2)[:-4])
    assert second.name in (why_incomplete(folder) or "")
    second.write_bytes(watched_history.weights(2))
    assert why_incomplete(folder) is None


def test_folders_come_in_training_order_and_others_not_at_all(tmp_path):
    for step in (1000, 20, 3):
        watched_history.write(tmp_path, step)
    (tmp_path / ".shapelake").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    assert [folder.path.name for folder in list_checkpoint_folders(tmp_path)] == [
        "checkpoint-3",
        "checkpoint-20",
        "checkpoint-1000",
    ]
