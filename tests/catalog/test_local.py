"""Local histories: files and name of a checkpoint, and distinct digests for checkpoints that lack files."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.catalog import checkpoint_metadata
from pipeline.catalog.audit import audit_history
from pipeline.catalog.checkpoint_files import LocalFolder, list_weight_files
from pipeline.catalog.digests import require_unchanged
from pipeline.catalog.local_histories import discover_history, inspect_checkpoint
from pipeline.errors import FilesChangedError
from pipeline.hashing import digest_file_hashes, file_sha256
from pipeline.spec import Checkpoint, Local


def checkpoint(folder: Path, content: str = "weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    (folder / "model.safetensors").write_text(content)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def sharded(folder: Path, whole: str = "model.safetensors") -> None:
    """Write an index of two shards, the first shard, and a stray file of the same pattern."""
    stem, suffix = whole.split(".")
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    (folder / f"{whole}.index.json").write_text(
        json.dumps({"weight_map": {"b": names[1], "a": names[0], "c": names[0]}})
    )
    (folder / names[0]).write_text("shard")
    (folder / f"{stem}-old.{suffix}").write_text("stray")


def test_weight_files_are_those_that_loading_tries_first(tmp_path: Path) -> None:
    """Loading in transformers prefers safetensors to pickles, and a whole file to an index."""
    assert list_weight_files(LocalFolder(tmp_path)) == ()
    sharded(tmp_path, "pytorch_model.bin")
    pickles = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    assert list_weight_files(LocalFolder(tmp_path)) == ("pytorch_model.bin.index.json", *pickles)
    (tmp_path / "pytorch_model.bin").touch()
    assert list_weight_files(LocalFolder(tmp_path)) == ("pytorch_model.bin",)
    sharded(tmp_path)
    tensors = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert list_weight_files(LocalFolder(tmp_path)) == ("model.safetensors.index.json", *tensors)
    (tmp_path / "model.safetensors").touch()
    assert list_weight_files(LocalFolder(tmp_path)) == ("model.safetensors",)


def test_the_weights_digest_covers_exactly_the_loaded_files(tmp_path: Path) -> None:
    def digest(*names: str) -> str:
        return digest_file_hashes((name, file_sha256(folder / name)) for name in names)

    folder = checkpoint(tmp_path / "a")
    whole = inspect_checkpoint(folder).weights_digest
    assert whole == digest("model.safetensors")
    sharded(folder)
    assert inspect_checkpoint(folder).weights_digest == whole
    (folder / "model.safetensors").unlink()
    sharded_digest = digest("model.safetensors.index.json", "model-00001-of-00002.safetensors")
    assert inspect_checkpoint(folder).weights_digest == sharded_digest


def test_checkpoints_that_lack_files_are_never_the_same(tmp_path: Path) -> None:
    """Folders without files, without weights and without config.json all have different digests."""
    for step in range(6):
        folder = checkpoint(tmp_path / "runs" / f"step{step}")
        for name, steps in (
            ("model.safetensors", (0, 1, 2, 3)),
            ("config.json", (0, 1, 4, 5)),
            ("tokenizer.json", (0, 1)),
        ):
            if step in steps:
                (folder / name).unlink()
    checkpoints = discover_history(Local(local=str(tmp_path / "runs"))).checkpoints
    assert len({checkpoint.content for checkpoint in checkpoints}) == 6
    assert discover_history(Local(local=str(tmp_path / "runs"))).checkpoints == checkpoints


def test_equal_files_in_two_folders_are_the_same(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint(tmp_path / "runs" / f"step{step}")
    one, two = discover_history(Local(local=str(tmp_path / "runs"))).checkpoints
    assert one.content == two.content


@pytest.mark.parametrize(("name", "label"), [("step512", "runs@step512"), ("final", "final@main")])
def test_a_folder_that_is_a_checkpoint_has_one_name(tmp_path: Path, name: str, label: str) -> None:
    """Discovery and `inspect_checkpoint` agree: the model is the parent folder if the folder name is a step."""
    folder = checkpoint(tmp_path / "runs" / name)
    (alone,) = discover_history(Local(local=str(folder))).checkpoints
    assert alone == inspect_checkpoint(folder)
    assert alone.label == label
    (named,) = discover_history(Local(local=str(folder), model="mine")).checkpoints
    assert named.model == "mine"


def test_a_checkpoint_of_a_history_has_the_name_that_it_has_alone(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "runs" / "step3")
    assert discover_history(Local(local=str(tmp_path / "runs"))).checkpoints == (inspect_checkpoint(folder),)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "its weights changed"),
        ("config.json", "its config changed"),
        ("tokenizer.json", "its tokenizer changed"),
    ],
)
def test_files_that_changed_since_the_plan_are_noticed(tmp_path: Path, name: str, message: str) -> None:
    planned: Checkpoint = inspect_checkpoint(checkpoint(tmp_path / "step1"))
    require_unchanged(planned)
    size = (tmp_path / "step1" / name).stat().st_size
    for content in ("x" * size, None):
        (tmp_path / "step1" / name).write_text(content) if content else (tmp_path / "step1" / name).unlink()
        with pytest.raises(FilesChangedError, match=f"step1.*{message}") as caught:
            require_unchanged(planned)
        assert len(str(caught.value).splitlines()) == 2


def test_a_folder_is_audited_as_a_repo_is(tmp_path: Path) -> None:
    """The audit reports an incomplete checkpoint, which is still planned so that its failure is recorded."""
    for step, content in ((0, "a"), (1, "b"), (2, "a"), (3, "c")):
        checkpoint(tmp_path / "runs" / f"step{step}", content * 8)
    checkpoint(tmp_path / "runs" / "best")
    (tmp_path / "runs" / "step3" / "model.safetensors").unlink()
    history = discover_history(Local(local=str(tmp_path / "runs")))
    assert {revision.name: revision.state for revision in history.revisions} == {
        **{"step0": "NEW", "step1": "NEW", "step2": "NEW"},
        **{"step3": "NO_WEIGHTS", "best": "UNPARSED"},
    }
    assert [c.step for c in history.checkpoints] == [0, 1, 2, 3]
    assert [c.n_params for c in history.checkpoints] == [2, 2, 2, None]  # float32 if config.json has no dtype
    assert [(finding.what, finding.revisions) for finding in audit_history(history)] == [
        ("equals-final", ("step0",)),  # equal to step2, the last step with weights
        ("no-weights", ("step3",)),
        ("unparsed", ("best",)),
    ]


def test_each_folder_is_listed_once_and_what_checkpoints_share_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cost of a history of thousands of checkpoints: one listing each; config and separate tokenizer once."""
    for step in range(20):
        checkpoint(tmp_path / "runs" / f"step{step}", f"weights {step}")
    tokenizer = checkpoint(tmp_path / "tokenizer")
    listed: Counter[str] = Counter()
    scandir, parsed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listed.update([str(path)]) or scandir(path))
    monkeypatch.setattr(checkpoint_metadata, "_FACTS", {})
    monkeypatch.setattr(checkpoint_metadata, "parse_config", lambda data: parsed.append(data) or json.loads(data))
    history = discover_history(Local(local=str(tmp_path / "runs"), tokenizer=str(tokenizer)))
    folders = [tmp_path / "runs", *(tmp_path / "runs" / f"step{step}" for step in range(20)), tokenizer]
    assert listed == Counter(map(str, folders))
    assert len(parsed) == 1
    assert {c.tokenizer_path for c in history.checkpoints} == {str(tokenizer)}
    assert len({c.content for c in history.checkpoints}) == 20


def test_configs_that_differ_are_told_apart(tmp_path: Path) -> None:
    for step, kind in ((1, "GPT2LMHeadModel"), (2, "BertForMaskedLM"), (3, None)):
        folder = checkpoint(tmp_path / "runs" / f"step{step}")
        (folder / "config.json").write_text(json.dumps({"architectures": [kind]}) if kind else "{")
    kinds = [c.kinds for c in discover_history(Local(local=str(tmp_path / "runs"))).checkpoints]
    assert kinds == [("decoder",), ("encoder",), ()]
